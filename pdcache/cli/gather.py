"""Collect what checks and plans need to know of the machine and the models."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from pdcache.errors import TopologyError
from pdcache.models.view import model_view, tokenizer_view
from pdcache.store.registry import BACKENDS
from pdcache.topology.facts import Facts, Node, local_node, meant_nodes, port_is_free
from pdcache.topology.schema import WORKER_ROLES, Topology
from pdcache.topology.stores import DynamicStore

CODE_LIMIT = 1 << 20
"""Bytes of code that are sent to workers at most: a mistaken path is not a whole disk."""


def gather(
    topology: Topology,
    *,
    nodes: tuple[Node, ...] | None = None,
    port_free: Callable[[int], bool] = port_is_free,
    code: Mapping[str, str] | None = None,
) -> Facts:
    """Facts of the given nodes, and of every model the topology names.

    Args:
        nodes: unset, those that the topology is meant for; if it names none, this machine.
        code: of a ``dynamic`` store, where it is known already.

    Raises:
        TopologyError: the code of a ``dynamic`` store cannot be read.
    """
    workers = [topology.worker(role) for role in WORKER_ROLES]
    models = {topology.model.path, *(worker.model_path for worker in workers)} - {None}
    tokenizers = {worker.tokenizer_path for worker in workers} - {None} - models
    nodes_at_hand = nodes or meant_nodes(topology) or (local_node(),)
    if topology.network.address is not None and len(nodes_at_hand) == 1:
        nodes_at_hand = (replace(nodes_at_hand[0], address=topology.network.address),)
    return Facts(
        nodes=nodes_at_hand,
        port_free=port_free,
        python=sys.executable,
        models={path: model_view(path) for path in models if path},
        tokenizers={path: tokenizer_view(path) for path in tokenizers if path},
        code=_code(topology) if code is None else code,
        missing=frozenset() if nodes is None and topology.nodes is not None else _missing(topology),
    )


def not_installed(packages: Iterable[str]) -> list[str]:
    """Those of the packages that this interpreter cannot import."""
    return [name for name in packages if importlib.util.find_spec(name) is None]


def _missing(topology: Topology) -> frozenset[str]:
    """Packages of the topology's backends that this interpreter, which the workers use, lacks.

    None where SGLang is not installed: such a machine checks and plans, and runs no worker.
    """
    if importlib.util.find_spec("sglang") is None:
        return frozenset()
    wanted = [*BACKENDS[topology.store.backend].traits.packages]
    if topology.transfer.backend == "nixl":
        wanted.append("nixl")
    return frozenset(not_installed(wanted))


def _code(topology: Topology) -> dict[str, str]:
    store = topology.store
    if not isinstance(store, DynamicStore) or store.code is None:
        return {}
    root = Path(store.code)
    files = [root] if root.is_file() else sorted(root.rglob("*.py"))
    base = root.parent if root.is_file() else root
    remedy = "Give a .py file or a folder with the module, relative to the topology."
    if not files:
        raise TopologyError(f"there is no Python code at {root}.", where="store.code",
                            remedy=remedy)  # fmt: skip
    if sum(path.stat().st_size for path in files) > CODE_LIMIT:
        raise TopologyError(
            f"the code at {root} is larger than {CODE_LIMIT} bytes.", where="store.code",
            remedy=remedy,
        )  # fmt: skip
    return {str(path.relative_to(base)): path.read_text(encoding="utf-8") for path in files}
