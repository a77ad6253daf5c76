"""The topology: what a user writes in YAML, in SGLang's and Mooncake's words.

Every model forbids unknown keys. A value left out is ``None`` or the default shown here; what it
becomes, and why, is decided in `pdcache.topology.settings` and shown by ``pdcache plan``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Port = Annotated[int, Field(ge=1, le=65535)]
Scalar = str | int | float | bool | None


class Mode(StrEnum):
    """Who writes KV to L3: prefill alone, or prefill and decode."""

    PREFILL_ONLY = "prefill_only"
    FULL_OFFLOAD = "full_offload"


class Role(StrEnum):
    """What a process does."""

    PREFILL = "prefill"
    DECODE = "decode"
    STORE = "store"
    GATEWAY = "gateway"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Model(_Model):
    """The model every worker serves."""

    path: str = Field(description="built-in name, local HF folder, or hub id")
    served_name: str | None = Field(None, description="name clients use; also part of L3 keys")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="weights and KV; auto is float32 on a CPU, SGLang's own choice on CUDA"
    )
    context_length: int | None = Field(None, ge=1, description="tokens")


class Hicache(_Model):
    """HiCache settings; under a role they override the shared ones key by key."""

    ratio: float | None = Field(None, gt=0, description="L2 tokens / L1 tokens")
    size_gb: int | None = Field(None, ge=1, description="L2 per rank in GB; overrides ratio")
    io_backend: Literal["kernel", "direct", "kernel_ascend"] | None = None
    layout: (
        Literal[
            "layer_first", "page_first", "page_first_direct", "page_first_kv_split", "page_head"
        ]
        | None
    ) = Field(None, description="memory layout of L2 and so of the pages in L3")
    write_policy: Literal["write_through", "write_back", "write_through_selective"] | None = None
    prefetch_policy: Literal["best_effort", "wait_complete", "timeout"] | None = None
    prefetch_threshold: int | None = Field(
        None, ge=0, description="fewest tokens beyond L1/L2 that are worth a read from L3"
    )
    prefetch_timeout_base_s: float | None = Field(None, ge=0)
    prefetch_timeout_per_ki_token_s: float | None = Field(None, ge=0)


class Worker(_Model):
    """One role's SGLang servers."""

    workers: int = Field(1, ge=1, description="number of servers")
    tp: int = Field(1, ge=1, description="tensor parallel ranks (GPUs) a server")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = Field(
        None, description="overrides model.dtype for this role"
    )
    page_size: int | None = Field(None, ge=1, description="overrides page_size for this role")
    served_name: str | None = Field(None, description="overrides model.served_name for this role")
    model_path: str | None = Field(None, description="overrides model.path for this role")
    tokenizer_path: str | None = None
    max_total_tokens: int | None = Field(None, ge=1, description="L1 pool, tokens")
    max_running_requests: int | None = Field(None, ge=1)
    chunked_prefill_size: int | None = Field(None, ge=1, description="tokens")
    mem_fraction_static: float | None = Field(None, gt=0, lt=1)
    hicache: Hicache = Field(default_factory=lambda: Hicache())
    port: Port | None = Field(None, description="HTTP port of the first server; +1 each")
    bootstrap_port: Port | None = Field(None, description="of the first server; +1 each")
    args: dict[str, Scalar] = Field(default_factory=dict, description="other SGLang flags")
    env: dict[str, str] = Field(default_factory=dict)


class Transfer(_Model):
    """How KV travels from prefill to decode."""

    backend: Literal["mooncake"] = "mooncake"
    ib_device: str | None = Field(None, description="RDMA device(s), as SGLang's flag takes them")


class Store(_Model):
    """L3: a Mooncake master and the processes that hold its segments."""

    backend: Literal["mooncake"] = "mooncake"
    holders: int = Field(1, ge=1, description="segment holder processes; KV outlives any worker")
    segment_gb: float = Field(4.0, gt=0, description="memory a holder gives to the store, GB")
    protocol: Literal["tcp", "rdma"] | None = None
    device: str = Field("", description="RDMA device names for protocol rdma")
    namespace: str | None = Field(
        None, description="prefix of every key; derived from all that shapes the bytes when unset"
    )
    master: str | None = Field(
        None, description="host:port of a running master; then no store process is started"
    )
    port: Port | None = Field(None, description="master RPC")
    metrics_port: Port | None = Field(None, description="master HTTP; of the given master too")


class Gateway(_Model):
    """smg, the front door."""

    host: str = "127.0.0.1"
    port: Port = 8000
    prefill_policy: Literal[
        "cache_aware", "round_robin", "random", "power_of_two", "consistent_hashing"
    ] = "cache_aware"
    decode_policy: Literal["round_robin", "random", "power_of_two"] = "round_robin"
    request_timeout_s: int = Field(600, ge=1, description="of a whole request, streaming included")


class Memory(_Model):
    """What the memory budget may count on."""

    host_gb: float | None = Field(None, gt=0, description="RAM of a node for this cluster, GB")


class Timeouts(_Model):
    """Time limits in seconds; each wait ends with the name of what it waited for."""

    ray_s: float = Field(60, gt=0, description="local head up, or given address reached")
    store_s: float = Field(30, gt=0)
    worker_s: float = Field(600, gt=0, description="a server from start to healthy")
    gateway_s: float = Field(60, gt=0)
    proof_s: float = Field(180, gt=0)


class Topology(_Model):
    """A whole cluster."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")
    mode: Mode
    device: Literal["cpu", "cuda"] = "cuda"
    model: Model
    page_size: int = Field(64, ge=1, description="tokens a page, the unit of reuse")
    hicache: Hicache = Field(default_factory=lambda: Hicache())
    prefill: Worker = Field(default_factory=lambda: Worker())
    decode: Worker = Field(default_factory=lambda: Worker())
    transfer: Transfer = Field(default_factory=Transfer)
    store: Store = Field(default_factory=lambda: Store())
    gateway: Gateway = Field(default_factory=lambda: Gateway())
    memory: Memory = Field(default_factory=lambda: Memory())
    timeouts: Timeouts = Field(default_factory=lambda: Timeouts())

    def worker(self, role: Role) -> Worker:
        """The settings of one worker role."""
        return self.prefill if role is Role.PREFILL else self.decode


def dump(topology: Topology) -> dict[str, Any]:
    """The topology as plain data, only what the user set."""
    return topology.model_dump(mode="json", exclude_unset=True)
