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
_NUMBER = re.compile(r"(?<![\d.])\d+(?:\.\d+){3}(?![\d.])|(?<!\d)\d{5}(?!\d)")
"""An IPv4 address, or what may be a port."""


def portable(plan: Plan, facts: Facts) -> dict[str, Any]:
    """By process: its flags, its environment, and the files it is given.

    Addresses of nodes, ports of the bands that pdcache chooses from, and the folders of this
    machine are replaced by their names in angle brackets. Flags are by name, so that their order
    does not matter.
    """
    places, numbers = _places(plan, facts), _numbers(plan, facts)

    def neutral(text: str) -> str:
        for path, name in places:
            text = text.replace(path, name)
        return _NUMBER.sub(lambda found: numbers.get(found[0], found[0]), text)

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


def _places(plan: Plan, facts: Facts) -> list[tuple[str, str]]:
    """Paths and IPv6 addresses, and the names that stand for them, longest first."""
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
    for index, node in enumerate(facts.nodes):
        if ":" in node.address:
            places[node.address] = f"<node {index}>"
    return [pair for pair in sorted(places.items(), key=lambda item: -len(item[0])) if pair[0]]


def _numbers(plan: Plan, facts: Facts) -> dict[str, str]:
    """Ports and IPv4 addresses, and the names that stand for them: the first to have one."""
    names = {node.address: f"<node {index}>" for index, node in reversed([*enumerate(facts.nodes)])}
    for process in reversed(plan.processes):
        for kind, port in reversed(process.ports.items()):
            if port in CHOSEN:
                names[str(port)] = f"<{kind} port of {process.name}>"
    return names
