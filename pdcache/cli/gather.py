"""Collect what checks and plans need to know of the machine and the models."""

from __future__ import annotations

import sys
from collections.abc import Callable

from pdcache.models.view import model_view, tokenizer_view
from pdcache.topology.facts import Facts, Node, local_node, port_is_free
from pdcache.topology.schema import Role, Topology


def gather(
    topology: Topology,
    *,
    nodes: tuple[Node, ...] | None = None,
    port_free: Callable[[int], bool] = port_is_free,
) -> Facts:
    """Facts of this machine, or of the given nodes, and of every model the topology names."""
    workers = [topology.worker(role) for role in (Role.PREFILL, Role.DECODE)]
    models = {topology.model.path, *(worker.model_path for worker in workers)} - {None}
    tokenizers = {worker.tokenizer_path for worker in workers} - {None} - models
    return Facts(
        nodes=nodes or (local_node(),),
        port_free=port_free,
        python=sys.executable,
        models={path: model_view(path) for path in models if path},
        tokenizers={path: tokenizer_view(path) for path in tokenizers if path},
    )
