"""Chat templates, rendered the way transformers renders them, without transformers."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pdcache.errors import ReplayError


class ChatTemplate:
    """A model's chat template with its special tokens."""

    def __init__(self, source: str, special_tokens: Mapping[str, str], where: str) -> None:
        """`special_tokens` maps bos_token, eos_token, ... to their texts.

        Raises:
            ReplayError: the template is not Jinja.
        """
        self.special_tokens = dict(special_tokens)
        self._where = where
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as cause:
            raise ReplayError(
                f"the chat template is not valid Jinja: {cause}.",
                where=where,
                remedy="Replace it by the template that comes with the model.",
            ) from cause

    @classmethod
    def from_folder(cls, folder: Path) -> ChatTemplate:
        """Read `chat_template.jinja`, or `chat_template` of `tokenizer_config.json`.

        Raises:
            ReplayError: there is no chat template, or it is not Jinja.
        """
        config = _read_json(folder / "tokenizer_config.json")
        tokens = _read_json(folder / "special_tokens_map.json") | config
        special = {
            name: value["content"] if isinstance(value, dict) else value
            for name, value in tokens.items()
            if name.endswith("_token") and isinstance(value, str | dict)
        }
        file = folder / "chat_template.jinja"
        if file.is_file():
            return cls(file.read_text(encoding="utf-8"), special, str(file))
        source = config.get("chat_template")
        if isinstance(source, list):
            source = {entry["name"]: entry["template"] for entry in source}.get("default")
        where = str(folder / "tokenizer_config.json")
        if not isinstance(source, str):
            raise ReplayError(
                "the model has no chat template.",
                where=where,
                remedy="Use a chat model, or put a chat_template.jinja beside tokenizer.json.",
            )
        return cls(source, special, where)

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The text of `messages`, up to where the model is to answer.

        Raises:
            ReplayError: the template refuses the messages.
        """
        try:
            return self._template.render(
                messages=list(messages),
                tools=None,
                documents=None,
                add_generation_prompt=True,
                **self.special_tokens,
            )
        except (jinja2.TemplateError, TypeError, ValueError) as cause:
            roles = ", ".join(message["role"] for message in messages)
            raise ReplayError(
                f"the chat template refuses messages of {roles}: {cause}.",
                where=self._where,
                remedy="Leave out what the model does not take (often the system prompt).",
            ) from cause


def _environment() -> ImmutableSandboxedEnvironment:
    # Settings, filter and functions are those of transformers' chat_template_utils.py.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks an answer for training; to a prompt it means nothing."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it a set on the instance

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    dumps: Callable[..., str] = json.dumps
    return dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        raise ReplayError(
            f"the file is not JSON: {cause}.", where=str(path), remedy="Fetch the model again."
        ) from cause
    return value if isinstance(value, dict) else {}
