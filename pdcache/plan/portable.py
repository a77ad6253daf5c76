"""A plan without what belongs to one machine or one moment, so that two plans can be compared."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pdcache.plan.ports import SERVER_BAND, SERVICE_BAND
from pdcache.plan.process import Plan, Process
from pdcache.sglang_cpu import pythonpath_folder
from pdcache.topology.facts import Facts

CHOSEN = range(SERVICE_BAND.start, SERVER_BAND.stop)


def portable(plan: Plan, facts: Facts) -> dict[str, Any]:
    """By process: its flags, its environment, and the files it is given.

    Addresses of nodes, ports of the bands that pdcache chooses from, and the folders of this
    machine are replaced by their names in angle brackets. Flags are by name, so that their order
    does not matter.
    """
    names = _names(plan, facts)

    def neutral(text: str) -> str:
        for pattern, name in names:
            text = pattern.sub(name, text)
        return text

    return {
        process.name: {
            "command": neutral(" ".join(_command(process))),
            "flags": {flag: neutral(value) for flag, value in flags(process).items()},
            "env": {key: neutral(value) for key, value in sorted(process.env.items())},
            "files": {neutral(path): neutral(text) for path, text in process.files.items()},
        }
        for process in plan.processes
    }


def flags(process: Process) -> dict[str, str]:
    """The flags of a command line by name; a switch has the value ``""``."""
    found: dict[str, str] = {}
    words = list(process.argv)
    for at, word in enumerate(words):
        if not word.startswith("--"):
            continue
        name, equals, value = word.partition("=")
        following = words[at + 1] if at + 1 < len(words) else "--"
        if not equals and not following.startswith("--"):
            value = following
        found[name] = value
    return found


def _command(process: Process) -> list[str]:
    end = next((at for at, word in enumerate(process.argv) if word.startswith("--")), None)
    return list(process.argv[:end])


def _names(plan: Plan, facts: Facts) -> list[tuple[re.Pattern[str], str]]:
    """What to replace by which name, longest first."""
    places = {
        str(pythonpath_folder()): "<cpu lane>",
        str(facts.home / "clusters" / plan.name): "<cluster>",
        plan.temp: "<temp>",
        plan.python: "<python>",
    }
    if Path(plan.python).is_absolute():
        places[str(Path(plan.python).parent)] = "<bin>"
    for path, view in facts.models.items():
        places[view.path] = f"<model {path}>"
    pairs = [
        (re.compile(re.escape(text)), name)
        for text, name in sorted(places.items(), key=lambda item: -len(item[0]))
        if text
    ]
    for index, node in enumerate(facts.nodes):
        pattern = rf"(?<![\d.]){re.escape(node.address)}(?![\d.])"
        pairs.append((re.compile(pattern), f"<node {index}>"))
    for process in plan.processes:
        for kind, port in process.ports.items():
            if port not in CHOSEN:
                continue
            pattern = rf"(?<!\d){port}(?!\d)"
            pairs.append((re.compile(pattern), f"<{kind} port of {process.name}>"))
    return pairs
