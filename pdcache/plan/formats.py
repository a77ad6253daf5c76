"""What shapes the bytes and the names of a role's pages, predicted before anything runs."""

from __future__ import annotations

from pdcache.checks.budget import l1_tokens, l2_tokens, model_path, token_bytes
from pdcache.plan.process import KvFormat
from pdcache.store.backend import PageShape
from pdcache.store.namespace import namespace
from pdcache.store.registry import BACKENDS
from pdcache.topology.facts import Facts
from pdcache.topology.schema import Role, Topology
from pdcache.topology.setting import Settings
from pdcache.topology.settings import attention_tp, role_settings
from pdcache.topology.switches import resolve


def kv_format(topology: Topology, facts: Facts, role: Role) -> KvFormat:
    """The pages of one role; decode without an L2 is described by prefill's layout."""
    own = role_settings(topology, role)
    settings = _cache_of_prefill(topology) | resolve(own)
    path = model_path(topology, role)
    view = facts.models.get(path)
    is_mla = bool(view and view.is_mla)
    worker = topology.worker(role)
    tp = attention_tp(worker)
    digest = view.weights_digest if view is not None else path
    shape = PageShape(
        namespace=namespace(topology, settings, digest, tp=tp, is_mla=is_mla),
        served_name=str(settings["served_model_name"].value),
        layout=str(settings["hicache_mem_layout"].value),
        tp=tp,
        pp=worker.pp,
        is_mla=is_mla,
    )
    objects = BACKENDS[topology.store.backend].page_objects(shape, topology.store)
    per_token = token_bytes(topology, facts, role, settings)
    l1 = l1_tokens(topology, facts, role, settings)
    return KvFormat(
        page_size=int(settings["page_size"].value),
        dtype=str(settings["dtype"].value),
        layout=shape.layout,
        io_backend=str(settings["hicache_io_backend"].value),
        tp=tp,
        served_name=shape.served_name,
        namespace=shape.namespace,
        key_prefix=objects.prefix,
        key_suffixes=objects.suffixes,
        keys_known=objects.known,
        key_ranks=objects.ranks,
        token_bytes=per_token,
        l2_tokens=l2_tokens(own, per_token, l1) if "hicache_mem_layout" in own else None,
    )


def _cache_of_prefill(topology: Topology) -> Settings:
    """Layout and io only: what else shapes pages, a role has of its own or leaves at 1."""
    settings = resolve(role_settings(topology, Role.PREFILL))
    return {key: settings[key] for key in ("hicache_mem_layout", "hicache_io_backend")}
