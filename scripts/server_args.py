"""Write `pdcache/sglang/server_args.json`: the flags of the installed SGLang's server, as data.

python scripts/server_args.py          write it
python scripts/server_args.py FILE     write another file
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

CATALOGUE = Path(__file__).resolve().parents[1] / "pdcache" / "sglang" / "server_args.json"
KINDS = {
    "int": "int",
    "float": "float",
    "str": "str",
    "nullable_str": "str",
    "parse_cuda_graph_backend_arg": "str",
    "human_readable_int": "count",
    "loads": "json",
    "json_list_type": "json",
    "parse_cuda_graph_config_arg": "json",
}
"""What a user writes, by the name of the function with which SGLang reads it."""


def main(arguments: list[str]) -> int:
    """Write the catalogue, one flag a line."""
    if len(arguments) > 1 or arguments[:1] in (["-h"], ["--help"]):
        print(__doc__, file=sys.stderr)
        return 2
    lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in flags(sglang_parser()))
    text = f'{{"sglang": {json.dumps(version("sglang"))}, "flags": [\n{lines}\n]}}\n'
    (Path(arguments[0]) if arguments else CATALOGUE).write_text(text, encoding="utf-8")
    return 0


def sglang_parser() -> argparse.ArgumentParser:
    """The parser of `sglang.launch_server`."""
    # Nothing here needs torchvision, and beside a torch without CUDA it cannot be imported.
    sys.modules["torchvision"] = None  # type: ignore[assignment]
    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser(add_help=False)
    ServerArgs.add_cli_args(parser)
    return parser


def flags(parser: argparse.ArgumentParser) -> Iterable[dict[str, Any]]:
    """Each flag without what is usual: one word as its value, no choices, no default."""
    actions = parser._actions
    held = Counter(action.dest for action in actions)
    for action in actions:
        options = [word for word in action.option_strings if not is_negation(action, word)]
        name = options[0].lstrip("-").replace("-", "_")
        if held[action.dest] > 1 and action.dest != name and not replacement(action):
            raise SystemExit(f"{options[0]} sets {action.dest}, which another flag sets too")
        everything = {
            "name": name,
            "aliases": options[1:] or None,
            "kind": kind(action),
            "nargs": action.nargs if isinstance(action.nargs, str) else None,
            "choices": choices(action) or None,
            "default": action.default,
            "required": action.required,
            "negatable": len(options) < len(action.option_strings),
            "field": action.dest if action.dest != name else None,
            "deprecated": replacement(action),
        }
        yield {
            key: value
            for key, value in everything.items()
            if value is not None and value is not False
        }


def is_negation(action: argparse.Action, word: str) -> bool:
    return isinstance(action, argparse.BooleanOptionalAction) and word.startswith("--no-")


def kind(action: argparse.Action) -> str:
    if action.nargs == 0:
        return "switch"
    if action.type is None:
        return "str"
    reader = getattr(action.type, "__name__", repr(action.type))
    if reader not in KINDS:
        raise SystemExit(f"{action.option_strings[0]} is read by {reader}: give it a kind in KINDS")
    return KINDS[reader]


def choices(action: argparse.Action) -> list[Any]:
    """In SGLang's order, or sorted where it keeps a set."""
    given = action.choices or []
    return sorted(given) if isinstance(given, (set, frozenset)) else list(given)


def replacement(action: argparse.Action) -> str | None:
    """What SGLang says to use instead of a deprecated flag."""
    if type(action).__name__.startswith("Deprecated"):
        said: str | None = getattr(action, "new_flag", None) or getattr(
            action, "error_message", None
        )
        return said or "no replacement"
    found = re.match(r"\(?deprecated[,:.]? *use (\S+?)\)?( instead)?[).]", action.help or "", re.I)
    return found[1] if found else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
