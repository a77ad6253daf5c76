"""What a replay runs against: a cluster by its name, or any server by its address."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast, get_args
from urllib.parse import urlsplit

import httpx

from pdcache.changes.kinds import has_storage
from pdcache.errors import ReplayError
from pdcache.models import model_facts, resolve_model
from pdcache.plan.portable import flags
from pdcache.plan.process import Plan, Process
from pdcache.replay.ceiling import CacheMode
from pdcache.replay.metrics import needed_series
from pdcache.replay.timeline import Watched
from pdcache.sglang.keys import ClusterAuth, Keys
from pdcache.topology.schema import Role, dump

if TYPE_CHECKING:
    from pdcache.cluster.record import Record

_SCRAPE_LIMIT_S = 5.0
# SGLang 0.5.23's own, where the plan sets none.
_PREFETCH_THRESHOLD = 256

Capacity = dict[str, int | None]


@dataclass(frozen=True)
class Target:
    """A server, and what is known of the cluster behind it.

    Attributes:
        name: as `--target` takes it.
        url: where requests go.
        model: folder of the model, or what else a tokenizer can be read of.
        served_name: the model's name in bodies.
        context_tokens: longest prompt and answer together; None when it is unknown.
        headers: of every request.
        plan, topology: of the cluster, None for a server by its address.
        capacity: tokens of `device` and `host` of one prefill worker and of `storage`, which is 0
            while it is detached.
        workers: their names, by URL and by the address where decode meets a prefill.
        watched: whose metrics are sampled.
        new_client: an HTTP client for those.
        flushable: prefill workers, whose L1 and L2 can be emptied with `new_client`.
    """

    name: str
    url: str
    model: str
    mode: CacheMode
    page_size: int
    served_name: str
    context_tokens: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    plan: Mapping[str, Any] | None = field(default=None, repr=False)
    topology: Mapping[str, Any] | None = field(default=None, repr=False)
    capacity: Capacity = field(default_factory=lambda: {"device": None, "host": None,
                                                        "storage": None})  # fmt: skip
    prefills: int = 1
    prefetch_threshold: int | None = None
    workers: Mapping[str, str] = field(default_factory=dict)
    watched: tuple[Watched, ...] = ()
    new_client: Callable[[], httpx.AsyncClient] | None = field(default=None, repr=False)
    flushable: tuple[Process, ...] = field(default=(), repr=False)


def server_target(
    url: str,
    model: str | None,
    *,
    mode: str = "full_offload",
    page_size: int = 64,
    served_name: str | None = None,
    key: str | None = None,
) -> Target:
    """A server by its address; what it cannot be asked must be given.

    Raises:
        ReplayError: there is no model, or no such mode.
    """
    if model is None:
        raise ReplayError(
            "a target given by URL needs its model, whose tokenizer makes the prompts.",
            where="--model",
            remedy="Give a built-in name, a folder, or a hub id on this machine.",
        )
    if mode not in get_args(CacheMode):
        raise ReplayError(
            f"there is no mode {mode!r}.",
            where="--mode",
            remedy=f"Give {' or '.join(get_args(CacheMode))}.",
        )
    return Target(
        name=url,
        url=url,
        model=resolve_model(model),
        mode=cast(CacheMode, mode),
        page_size=page_size,
        served_name=served_name or model,
        context_tokens=_context(model),
        headers={"Authorization": f"Bearer {key}"} if key else {},
    )


def cluster_target(record: Record) -> Target:
    """The gateway of a cluster that is up.

    Raises:
        ClusterError: the cluster does not answer.
    """
    from pdcache.cluster.client import ClusterClient

    client = ClusterClient(record)
    own = client.desired()
    client.close()
    return replace(of_plan(own.plan, own.keys), topology=dump(own.topology))


def of_plan(plan: Plan, keys: Keys) -> Target:
    """The gateway of a cluster that runs `plan`; its workers are asked for their sizes."""
    shape = plan.formats["prefill"]
    prefills = plan.role(Role.PREFILL)
    arguments = flags(prefills[0])
    auth = ClusterAuth(lambda: plan, keys)
    watched = _watched(plan)
    seen = _seen(watched, auth)
    first, master = seen.get(prefills[0].name, {}), next(
        (seen[own.name] for own in watched if own.role == "store" and own.name in seen), {}
    )  # fmt: skip
    page_bytes = shape.token_bytes * shape.key_ranks
    size = master.get("master_total_capacity_bytes")
    storage = int(size) // page_bytes if size and page_bytes else None
    options = json.loads(arguments.get("--hicache-storage-backend-extra-config", "{}"))
    context = first.get("sglang:context_len")
    return Target(
        name=plan.name,
        url=plan.endpoint,
        model=plan.model_path,
        mode=plan.mode.value,
        page_size=shape.page_size,
        served_name=shape.served_name,
        context_tokens=int(context) if context else _context(plan.model_path),
        headers=keys.headers(),
        plan=plan.as_json(),
        capacity={
            "device": _whole(first.get("sglang:max_total_num_tokens"))
            or _whole(arguments.get("--max-total-tokens")),
            "host": _whole(first.get("sglang:hicache_host_total_tokens")) or shape.l2_tokens,
            "storage": storage if has_storage(prefills[0]) else 0,
        },
        prefills=len(prefills),
        prefetch_threshold=options.get("prefetch_threshold", _PREFETCH_THRESHOLD),
        workers=_addresses(plan),
        watched=watched,
        new_client=lambda: httpx.AsyncClient(trust_env=False, auth=auth),
        flushable=tuple(prefills),
    )


def _addresses(plan: Plan) -> dict[str, str]:
    """Names of all workers, by their URL and by their bootstrap server's HOST:PORT."""
    found = {}
    for own in (*plan.role(Role.PREFILL), *plan.role(Role.DECODE)):
        if own.url is not None:
            found[own.url] = own.name
            if port := own.ports.get("bootstrap"):
                found[f"{urlsplit(own.url).hostname}:{port}"] = own.name
    return found


def _watched(plan: Plan) -> tuple[Watched, ...]:
    """All workers, and the masters of a store that have a port for metrics."""
    workers = [
        Watched(own.name, role.value, f"{own.url}/metrics")
        for role in (Role.PREFILL, Role.DECODE)
        for own in plan.role(role)
    ]
    masters = [
        Watched(own.name, "store", f"{own.url}/metrics")
        for own in plan.role(Role.STORE)
        if own.url is not None and own.ports.get("metrics")
    ]
    return (*workers, *masters)


def _seen(watched: tuple[Watched, ...], auth: ClusterAuth) -> dict[str, dict[str, float]]:
    """Metrics by process, of those that answer."""
    found = {}
    with httpx.Client(timeout=_SCRAPE_LIMIT_S, trust_env=False, auth=auth) as client:
        for own in watched:
            try:
                found[own.name] = needed_series(client.get(own.url).raise_for_status().text)
            except httpx.HTTPError:
                continue
    return found


def _context(model: str) -> int | None:
    facts = model_facts(model)
    return facts.max_positions or None if facts is not None else None


def _whole(value: float | str | None) -> int | None:
    return int(float(value)) if value else None
