"""What a run was made with: `environment.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast, get_args

from pdcache.replay.ceiling import CacheMode


@dataclass(frozen=True)
class Capacity:
    """Tokens that the tiers hold; None where it is unknown, 0 where there is no such tier.

    Attributes:
        device: L1 of one prefill worker.
        host: L2 of one prefill worker.
        storage: L3, shared by all.
    """

    device: int | None = None
    host: int | None = None
    storage: int | None = None


@dataclass(frozen=True)
class Environment:
    """One run's target, arguments and versions.

    Attributes:
        target: the address it ran against.
        mode: what the ceiling counts.
        page_size: tokens a page.
        started_at: ISO time of the start, empty when unknown.
        spec: arguments of the replay; `reuse: false` when every request had a salt of its own.
        versions: program name to version.
        plan, topology: of the cluster, None for a target that is only known by its URL.
        capacity: what the tiers hold.
        prefills: number of prefill workers.
        prefetch_threshold: shortest part that is read from L3, in tokens; None when unknown.
        wall_s: seconds from the start to the end of the last request; None when it was cut.
        complete: whether the client came to its end.
    """

    target: str
    mode: CacheMode
    page_size: int
    started_at: str = ""
    spec: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    plan: Mapping[str, Any] | None = None
    topology: Mapping[str, Any] | None = None
    capacity: Capacity = Capacity()
    prefills: int = 1
    prefetch_threshold: int | None = None
    wall_s: float | None = None
    complete: bool = False

    @property
    def reuse(self) -> bool:
        """Whether requests could reuse each other's KV."""
        return self.spec.get("reuse", True) is not False

    @property
    def planned(self) -> int | None:
        """Requests that were to be sent, when the client noted it."""
        planned = self.spec.get("requests_planned")
        return planned if isinstance(planned, int) else None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Environment:
        """Read the object of `environment.json`.

        Raises:
            ValueError, KeyError, TypeError: it is not one that this version reads.
        """
        if data["mode"] not in get_args(CacheMode):
            raise ValueError(f"mode {data['mode']!r} is unknown")
        if not isinstance(data["page_size"], int) or data["page_size"] < 1:
            raise ValueError(f"page_size is {data['page_size']!r}")
        known = data.get("capacity_tokens") or {}
        return cls(
            target=data["target"],
            mode=cast(CacheMode, data["mode"]),
            page_size=data["page_size"],
            started_at=data.get("started_at") or "",
            spec=data.get("spec") or {},
            versions=data.get("versions") or {},
            plan=data.get("plan"),
            topology=data.get("topology"),
            capacity=Capacity(known.get("device"), known.get("host"), known.get("storage")),
            prefills=data.get("prefills") or 1,
            prefetch_threshold=data.get("prefetch_threshold"),
            wall_s=data.get("wall_s"),
            complete=bool(data.get("complete", False)),
        )
