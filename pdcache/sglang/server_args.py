"""The flags of SGLang's server as data, so that ``args`` is checked on machines without SGLang.

`scripts/server_args.py` writes the data from the installed SGLang. What is promised here is what
SGLang's argument parser does with the words of `pdcache.sglang.flags`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from pdcache.sglang.flags import flag
from pdcache.topology.settings import flag_name

Kind = Literal["switch", "int", "count", "float", "str", "json"]
"""How the value is written; a ``count`` is a whole number or a short form of it, as 8k or 8Ki."""

_SAID = {
    "int": "a whole number",
    "count": "a whole number (8k and 8Ki are short forms)",
    "float": "a number",
    "str": "a text",
    "json": "JSON",
}
_COUNT = re.compile(r"\d+(\.\d+)?[kMGT]|\d+[KMGT]i")
_NEGATIVE_NUMBER = re.compile(r"-\d+|-\d*\.\d+")


@dataclass(frozen=True)
class ServerArg:
    """One flag.

    Attributes:
        name: its first spelling, with underscores and without dashes.
        aliases: its other spellings, as on the command line.
        kind: how its value is written; a ``switch`` has none.
        nargs: argparse's word for more than one value: ``?``, ``*`` or ``+``.
        choices: the only values it takes; empty when it takes any.
        default: SGLang's, before its rules; ``None`` is often a choice that the rules make.
        negatable: whether ``no_NAME`` turns the switch off.
        field: the name in SGLang's ServerArgs.
        deprecated: what SGLang says to use instead.
    """

    name: str
    kind: Kind
    field: str
    aliases: tuple[str, ...] = ()
    nargs: str | None = None
    choices: tuple[str | int, ...] = ()
    default: Any = None
    required: bool = False
    negatable: bool = False
    deprecated: str | None = None

    @property
    def options(self) -> tuple[str, ...]:
        """Every word that names it on the command line."""
        off = (flag(f"no_{self.name}"),) if self.negatable else ()
        return (flag(self.name), *self.aliases, *off)


if TYPE_CHECKING:
    SERVER_ARGS: Mapping[str, ServerArg]
    """All flags by name."""

    VERSION: str
    """The SGLang they were read from."""
else:

    def __getattr__(name: str) -> Any:
        """The data are read when they are first asked for."""
        if name in ("SERVER_ARGS", "VERSION"):
            return getattr(_catalogue(), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def find(name: str) -> ServerArg | None:
    """The flag that SGLang takes a name for, in any spelling.

    As SGLang's parser does, this takes the start of a spelling that is the start of no other.
    """
    by_option, option = _catalogue().by_option, flag(name)
    if option in by_option:
        return by_option[option]
    longer = _longer(option)
    return by_option[longer[0]] if len(longer) == 1 else None


def canonical(name: str) -> str:
    """The name under which `SERVER_ARGS` has a flag; an unknown one with underscores."""
    arg = find(name)
    return flag_name(name) if arg is None else arg.name


def nearest(name: str) -> str | None:
    """The flag that someone who wrote an unknown name most likely meant."""
    wanted = flag_name(name)
    spellings: dict[str, str] = {}
    for arg in _catalogue().SERVER_ARGS.values():
        if arg.deprecated is None:
            spellings |= dict.fromkeys([arg.field, *map(flag_name, arg.options)], arg.name)
    close = get_close_matches(wanted, spellings, n=1, cutoff=0.7)
    return spellings[close[0]] if close else None


def problem(name: str, value: Any) -> str | None:
    """Why a server would not start with this flag, or not do what was asked for; else ``None``.

    ``None`` as the value leaves the flag out, which is never a problem.
    """
    arg, option = find(name), flag(name)
    if arg is None:
        return _unknown(name)
    if option not in arg.options:
        return f"{name} is short for {arg.name}; other rules know it by its whole name only."
    if value is None:
        return None
    if arg.kind == "switch":
        return _switch_problem(arg, option, value)
    if value is False or (value is True and arg.nargs not in ("?", "*")):
        return f"{name} takes {_SAID[arg.kind]}, not {str(value).lower()}."
    return None if value is True else _text_problem(arg, name, str(value))


def mended(name: str, value: Any) -> Any:
    """A value that has no `problem`, near to one that has; ``None`` if there is none."""
    arg, text = find(name), str(value)
    if arg is None or flag(name) not in arg.options:
        return None
    if arg.kind == "switch":
        on = text.lower() not in ("false", "no", "off", "0", "")
        return True if on else (None if arg.negatable else False)
    guesses: list[Any] = [arg.default]
    if isinstance(value, float) and value.is_integer():
        guesses.insert(0, int(value))
    if arg.choices:
        longer = [one for one in arg.choices if text and str(one).startswith(text)]
        guesses = [*longer, *get_close_matches(text, map(str, arg.choices), n=1), arg.default]
    return next((one for one in guesses if one is not None and problem(name, one) is None), None)


@dataclass(frozen=True)
class _Catalogue:
    VERSION: str
    SERVER_ARGS: Mapping[str, ServerArg]
    by_option: Mapping[str, ServerArg]


@cache
def _catalogue() -> _Catalogue:
    data = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    args = [_server_arg(**given) for given in data["flags"]]
    by_option = {option: arg for arg in args for option in arg.options}
    by_name = {arg.name: arg for arg in args}
    return _Catalogue(data["sglang"], MappingProxyType(by_name), MappingProxyType(by_option))


def _server_arg(**given: Any) -> ServerArg:
    for key in ("aliases", "choices"):
        given[key] = tuple(given.get(key, ()))
    if given["kind"] == "switch":
        given.setdefault("default", None if given.get("negatable") else False)
    given.setdefault("field", given["name"])
    return ServerArg(**given)


def _longer(option: str) -> list[str]:
    return [known for known in _catalogue().by_option if known.startswith(option)]


def _unknown(name: str) -> str:
    longer = _longer(flag(name))
    if len(longer) > 1:
        some = ", ".join(flag_name(option) for option in longer[:3])
        return f"{name} is short for {len(longer)} flags of SGLang ({some}, …)."
    close = nearest(name)
    hint = f"; the nearest flag is {close}" if close else ""
    return f"SGLang {_catalogue().VERSION} has no flag {name}{hint}."


def _switch_problem(arg: ServerArg, option: str, value: Any) -> str | None:
    if value is True:
        return None
    if value is not False:
        return f"{flag_name(option)} is a switch: it takes true or false, not {value!r}."
    if arg.negatable and option == flag(arg.name):
        return f"{arg.name}: false leaves the flag to SGLang; no_{arg.name}: true turns it off."
    return None


def _text_problem(arg: ServerArg, name: str, text: str) -> str | None:
    if len(text) > 1 and text[0] == "-" and " " not in text and not _is_negative(text):
        return f"SGLang reads {text!r}, the value of {name}, as another flag."
    try:
        read = _read(arg.kind, text)
    except ValueError:
        several = (
            " It can have several, of which args gives one." if arg.nargs in ("*", "+") else ""
        )
        return f"{name} takes {_SAID[arg.kind]}, not {text!r}.{several}"
    if arg.choices and read not in arg.choices:
        return f"{name} is one of {', '.join(map(str, arg.choices))}, not {text!r}."
    return None


def _is_negative(text: str) -> bool:
    return _NEGATIVE_NUMBER.fullmatch(text) is not None


def _read(kind: Kind, text: str) -> Any:
    """The value as SGLang's parser reads it.

    Raises:
        ValueError: it cannot be read as this kind.
    """
    if kind == "count" and _COUNT.fullmatch(text.strip()):
        return text
    if kind in ("int", "count"):
        return int(text)
    if kind == "float":
        return float(text)
    return json.loads(text) if kind == "json" else text
