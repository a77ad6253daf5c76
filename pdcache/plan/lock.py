"""A lock file: a topology with everything that decided its plan, to be run again unchanged.

It is YAML. It holds the topology, the code of a ``dynamic`` store, the versions, the models'
digests and the portable plan, so it can be read as a recipe and be run by ``pdcache up --locked``.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import yaml

from pdcache import __version__
from pdcache.errors import TopologyError
from pdcache.plan.difference import Difference, differences
from pdcache.plan.portable import portable
from pdcache.plan.process import Plan
from pdcache.topology import parse_topology
from pdcache.topology.facts import Facts
from pdcache.topology.schema import Topology, dump

PACKAGES = (
    "sglang",
    "mooncake-transfer-engine",
    "mooncake-transfer-engine-non-cuda",
    "smg",
    "ray",
    "torch",
)
HEAD = """# Written by `pdcache plan --lock`. `pdcache up --locked FILE` runs it, and refuses to
# start when versions, models or any flag would differ from what stands here.
"""


def lock_text(topology: Topology, plan: Plan, facts: Facts) -> str:
    """The lock file of a plan."""
    data = {
        "lock": 1,
        "topology": dump(topology),
        "versions": versions(),
        "models": digests(facts),
        "code": dict(facts.code),
        "processes": portable(plan, facts),
    }
    return HEAD + yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)


def read_lock(path: Path) -> dict[str, Any]:
    """The content of a lock file.

    Raises:
        TopologyError: it cannot be read, or is none.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TopologyError(f"cannot read the lock file: {error}.", where=str(path)) from None
    if not isinstance(data, dict) or data.get("lock") != 1:
        raise TopologyError(
            "this is no lock file.",
            where=str(path),
            remedy="Write one with `pdcache plan FILE --lock LOCK`.",
        )
    return data


def locked_topology(lock: dict[str, Any], path: Path) -> Topology:
    """The topology of a lock file.

    Raises:
        TopologyError: this version of pdcache does not know one of its keys.
    """
    return parse_topology(yaml.safe_dump(lock["topology"]), source=f"{path}: topology")


def changes(lock: dict[str, Any], plan: Plan, facts: Facts) -> list[Difference]:
    """What is different here and now from what a lock holds."""
    found = [
        Difference("versions", name, lock["versions"].get(name), versions().get(name))
        for name in dict.fromkeys([*lock["versions"], *versions()])
        if lock["versions"].get(name) != versions().get(name)
    ]
    here = digests(facts)
    found += [
        Difference("models", path, lock["models"].get(path), here.get(path))
        for path in dict.fromkeys([*lock["models"], *here])
        if lock["models"].get(path) != here.get(path)
    ]
    return found + differences(lock["processes"], portable(plan, facts))


def versions() -> dict[str, str]:
    """Versions of pdcache and of the packages that the plan's processes come from."""
    found = {"pdcache": __version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def digests(facts: Facts) -> dict[str, str]:
    """Digests of weights and tokenizer by the model's path in the YAML."""
    return {
        path: f"weights {view.weights_digest} tokenizer {view.tokenizer_digest}"
        for path, view in sorted(facts.models.items())
    }
