"""The desired state, kept in Ray's GCS so that it outlives the controller."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pdcache.changes.change import Change
from pdcache.plan.process import Plan
from pdcache.sglang.keys import Keys
from pdcache.topology.schema import Topology

if TYPE_CHECKING:
    from pdcache.faults.contents import Contents


@dataclass
class Desired:
    """What a controller must know to go on where the one before it ended.

    A field that is added has a plain default: what was kept before it was there has no such value.

    Attributes:
        proved: result of the last proof; None before the first.
        doubts: why the last proof failed, or why there was none.
        serving: the gateway has taken every worker once.
        incarnations: starts of each process so far.
        admitted: the incarnation of each process that was healthy when this was kept.
        topology: what the plan was made from, with every later change.
        held: workers that are kept out of the gateway, with the reason.
        stopped: processes that only a change starts again.
        change: the change that runs, failed, or was the last one.
        broken: why chains of pages in L3 have to be mended; None when they need not.
        contents: about what the store held at the last look; None when there was none.
    """

    plan: Plan
    topology: Topology
    keys: Keys
    proved: bool | None = None
    doubts: list[str] = field(default_factory=list)
    serving: bool = False
    incarnations: dict[str, int] = field(default_factory=dict)
    admitted: dict[str, int] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)
    change: Change | None = None
    broken: str | None = None
    contents: Contents | None = None

    def save(self, cluster: str) -> None:
        """Keep it."""
        _kv()._internal_kv_put(_key(cluster), pickle.dumps(self), overwrite=True)


def load(cluster: str) -> Desired | None:
    """What was kept, or None."""
    value: bytes | None = _kv()._internal_kv_get(_key(cluster))
    if value is None:
        return None
    desired: Desired = pickle.loads(value)
    return desired


def forget(cluster: str) -> None:
    """Remove what was kept, and whose it was."""
    _kv()._internal_kv_del(_key(cluster))
    _kv()._internal_kv_del(_owner_key(cluster))


def claim(cluster: str, cluster_id: str) -> None:
    """The name belongs to a new cluster: what one before it left under the name is forgotten."""
    forget(cluster)
    _kv()._internal_kv_put(_owner_key(cluster), cluster_id.encode(), overwrite=True)


def is_others(cluster: str, cluster_id: str) -> bool:
    """Whether the name was claimed by another cluster than that of the id."""
    owner: bytes | None = _kv()._internal_kv_get(_owner_key(cluster))
    return owner is not None and owner.decode() != cluster_id


def _kv() -> Any:
    from ray.experimental import internal_kv

    return internal_kv


def _key(cluster: str) -> bytes:
    return f"pdcache:{cluster}:desired".encode()


def _owner_key(cluster: str) -> bytes:
    return f"pdcache:{cluster}:owner".encode()
