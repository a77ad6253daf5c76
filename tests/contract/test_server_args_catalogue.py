"""The catalogue of server flags is the installed SGLang's, and so is what is said about values.

One process reads SGLang's parser; all command lines are put to that parser.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pdcache.sglang.flags import words
from pdcache.sglang.server_args import SERVER_ARGS, VERSION, ServerArg, find, problem

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
CATALOGUE = SCRIPTS.parent / "pdcache" / "sglang" / "server_args.json"
VALUES = (True, 0, 7, -3, 2.5, "7", "8k", "8Ki", "1.5M", "1.5Ki", "8K", "two words", "", "-x",
          "-1.5", "- x", "[1]", '{"a": 1}', "true", "None")  # fmt: skip
LOOKED_INTO = {"cuda_graph_config", "lora_paths"}
"""Flags whose JSON SGLang reads for its content too."""

# Writes the catalogue to the file of the first argument, reads [words, …] on stdin and prints
# [whether they are taken, …].
READ = """
import json, sys
import server_args

assert server_args.main([sys.argv[1]]) == 0
parser = server_args.sglang_parser()

def refuse(message):
    raise ValueError(message)

parser.error = refuse  # its own writes a usage of five hundred flags each time

def taken(words):
    try:
        parser.parse_args(["--model-path", "m", *words])
    except Exception:
        return False
    return True

print("RESULT", json.dumps([taken(words) for words in json.load(sys.stdin)]))
"""


@dataclass(frozen=True)
class Sglang:
    """The catalogue as it is made now, and which command lines SGLang takes."""

    catalogue: str
    taken: dict[tuple[str, ...], bool]


def fitting(arg: ServerArg) -> Any:
    """A value that a flag takes."""
    usual = {"switch": True, "json": "{}"}.get(arg.kind, "1")
    return arg.choices[0] if arg.choices else usual


def by_words(pairs: Iterable[tuple[str, Any]]) -> dict[tuple[str, ...], tuple[str, Any]]:
    return {tuple(words(name, value)): (name, value) for name, value in pairs}


FLAGS = SERVER_ARGS.values()
ASKED = by_words(
    [
        *((arg.name, value) for arg in FLAGS for value in (*VALUES, *arg.choices)),
        *((arg.name, f"{choice}x") for arg in FLAGS for choice in arg.choices[:1]),
        *((option, fitting(arg)) for arg in FLAGS for option in arg.options),
        *((f"{option}-x", True) for arg in FLAGS for option in arg.options),
    ]
)
"""Flags with values, by their words on the command line."""

SHORTENED = by_words(
    (option[:-3], fitting(find(option[:-3]) or arg)) for arg in FLAGS for option in arg.options
)
"""The starts of spellings, with a value of the flag that they are short for."""


@pytest.fixture(scope="module")
def sglang(tmp_path_factory: pytest.TempPathFactory) -> Sglang:
    """What the installed SGLang says."""
    made = tmp_path_factory.mktemp("catalogue") / "server_args.json"
    lines = list(ASKED | SHORTENED)
    done = subprocess.run(
        [sys.executable, "-c", READ, str(made)],
        env=os.environ | {"PYTHONPATH": str(SCRIPTS)},
        input=json.dumps(lines), capture_output=True, text=True, timeout=300, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (result,) = [line[7:] for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    return Sglang(
        made.read_text(encoding="utf-8"), dict(zip(lines, json.loads(result), strict=True))
    )


def test_the_catalogue_is_that_of_the_installed_sglang(sglang: Sglang) -> None:
    assert CATALOGUE.read_text(encoding="utf-8") == sglang.catalogue, (
        "run `python scripts/server_args.py`"
    )
    assert json.loads(sglang.catalogue)["sglang"] == VERSION


def test_a_value_has_a_problem_exactly_when_sglangs_parser_refuses_it(sglang: Sglang) -> None:
    wrong = {
        line: (taken, said)
        for line, (name, value) in ASKED.items()
        if (arg := find(name)) is None or arg.name not in LOOKED_INTO
        if (taken := sglang.taken[line]) is not ((said := problem(name, value)) is None)
    }
    assert wrong == {}


def test_the_start_of_a_spelling_is_found_exactly_when_sglangs_parser_takes_it(
    sglang: Sglang,
) -> None:
    found = {line: find(name) is not None for line, (name, _) in SHORTENED.items()}
    assert found == {line: sglang.taken[line] for line in SHORTENED}
    assert set(found.values()) == {True, False}


def test_values_of_every_kind_were_taken_and_refused(sglang: Sglang) -> None:
    outcomes = {
        (arg.kind, sglang.taken[line])
        for line, (name, _) in ASKED.items()
        if (arg := find(name)) is not None
    }
    kinds = ("switch", "int", "count", "float", "str", "json")
    assert outcomes == {(kind, taken) for kind in kinds for taken in (True, False)}
