"""The topology: what a user writes in YAML, in SGLang's and Mooncake's words.

Every model forbids unknown keys. A value left out is ``None`` or the default shown here; what it
becomes, and why, is decided in `pdcache.topology.settings` and shown by ``pdcache plan``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pdcache.topology.stores import MooncakeStore, Port, Store

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


WORKER_ROLES = (Role.PREFILL, Role.DECODE)


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
    host_memory_fraction: float | None = Field(
        None,
        gt=0,
        le=1,
        description="L2 of all ranks on a node as a share of its free memory; with neither ratio "
        "nor size_gb",
    )
    host_memory_mode: Literal["cache", "buffer_only"] | None = Field(
        None, description="buffer_only: L2 only stages, all cached pages live in L3 (prefill)"
    )
    io_backend: Literal["kernel", "direct", "kernel_ascend"] | None = Field(
        None, description="how pages are copied between L1 and L2"
    )
    layout: (
        Literal[
            "layer_first", "page_first", "page_first_direct", "page_first_kv_split", "page_head"
        ]
        | None
    ) = Field(None, description="memory layout of L2 and so of the pages in L3")
    write_policy: Literal["write_through", "write_back", "write_through_selective"] | None = Field(
        None, description="when a page of L1 is copied to L2 and L3"
    )
    prefetch_policy: Literal["best_effort", "wait_complete", "timeout"] | None = Field(
        None, description="how long a request waits for its pages from L3"
    )
    prefetch_threshold: int | None = Field(
        None, ge=0, description="fewest tokens beyond L1/L2 that are worth a read from L3"
    )
    pass_prefix_keys: bool | None = Field(
        None, description="hand the keys of the pages before to the backend (prefill)"
    )
    prefetch_timeout_base_s: float | None = Field(
        None, ge=0, description="policy timeout: its constant part"
    )
    prefetch_timeout_per_ki_token_s: float | None = Field(
        None, ge=0, description="policy timeout: its part for 1,024 tokens"
    )


class KvEvents(_Model):
    """KV events of every server, as SGLang publishes them over ZMQ."""

    port: Port = Field(5557, description="of the first server; +1 each (+1 each dp rank)")
    topic: str = ""
    replay_port: Port | None = Field(
        None, description="where lost events are asked for again; of the first server, +1 each"
    )


class Worker(_Model):
    """One role's SGLang servers."""

    workers: int = Field(1, ge=1, le=1024, description="number of servers")
    nodes: int = Field(1, ge=1, le=64, description="nodes that one server spans")
    tp: int = Field(1, ge=1, le=1024, description="tensor parallel ranks a server")
    pp: int = Field(1, ge=1, le=256, description="pipeline parallel stages a server")
    dp: int = Field(1, ge=1, le=256, description="data parallel replicas a server")
    attn_dp: int = Field(
        1, ge=1, le=1024, description="data parallel ranks of attention, within tp (DP attention)"
    )
    ep: int = Field(1, ge=1, le=1024, description="expert parallel ranks, within tp")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = Field(
        None, description="overrides model.dtype for this role"
    )
    page_size: int | None = Field(None, ge=1, description="overrides page_size for this role")
    served_name: str | None = Field(None, description="overrides model.served_name for this role")
    model_path: str | None = Field(None, description="overrides model.path for this role")
    tokenizer_path: str | None = Field(
        None, description="folder with another tokenizer than the model's"
    )
    max_total_tokens: int | None = Field(None, ge=1, description="L1 pool, tokens")
    max_running_requests: int | None = Field(None, ge=1, description="requests in a batch at most")
    chunked_prefill_size: int | None = Field(None, ge=1, description="tokens")
    mem_fraction_static: float | None = Field(
        None, gt=0, lt=1, description="share of a GPU's memory for weights and L1"
    )
    eviction_policy: Literal["lru", "lfu", "slru", "priority", "tlru"] | None = Field(
        None, description="which pages leave L1 and L2 first"
    )
    offload_stride: int | None = Field(
        None, ge=1, description="decode: tokens that are offloaded at a time; a tail below is lost"
    )
    retraction_backup: Literal["cpu_tensor", "host_pool", "none"] | None = Field(
        None, description="decode: where a retracted request's KV is kept"
    )
    radix_cache: bool = Field(False, description="decode: keep finished prompts in L1 too")
    hicache: Hicache = Field(default_factory=lambda: Hicache())
    kv_events: KvEvents | None = Field(None, description="publish KV events; unset: none")
    metrics: bool = Field(True, description="serve /metrics, by which tiers are accounted")
    cache_report: bool = Field(True, description="answers tell their cached tokens")
    port: Port | None = Field(None, description="HTTP port of the first server; +1 each")
    bootstrap_port: Port | None = Field(None, description="of the first server; +1 each")
    args: dict[str, Scalar] = Field(default_factory=dict, description="other SGLang flags")
    env: dict[str, str] = Field(
        default_factory=dict, description="environment laid over pdcache's own"
    )


class Transfer(_Model):
    """How KV travels from prefill to decode."""

    backend: Literal["mooncake", "mooncake_tcp", "nixl", "ascend", "mori"] = Field(
        "mooncake", description="SGLang's transfer backend; mooncake_tcp needs no RDMA"
    )
    ib_device: str | None = Field(None, description="RDMA device(s), as SGLang's flag takes them")


class Gateway(_Model):
    """smg, the front door."""

    host: str = "127.0.0.1"
    port: Port = 8000
    key_file: str | None = Field(
        None,
        min_length=1,
        description="file on this machine with the key that clients must send as a bearer, and "
        "that workers then want too; made with a new key when there is none",
    )
    prefill_policy: Literal[
        "cache_aware", "round_robin", "random", "power_of_two", "consistent_hashing"
    ] = "cache_aware"
    decode_policy: Literal["round_robin", "random", "power_of_two"] = "round_robin"
    request_timeout_s: int = Field(
        600, ge=2, description="of one try of a request, its whole stream included"
    )
    max_concurrent_requests: int = Field(
        1024, ge=1, description="requests in flight at most; more wait in the queue"
    )
    queue_size: int = Field(
        1024, ge=1, description="requests that wait; more are answered 429 with Retry-After"
    )
    queue_timeout_s: int = Field(
        30, ge=1, description="longest wait in the queue; then 503 with Retry-After"
    )


class Nodes(_Model):
    """The nodes a topology is meant for: `check` and `plan` take them in place of this machine.

    `up` looks at the real ones.
    """

    count: int = Field(1, ge=1, le=1024)
    gpus: int = Field(8, ge=0, description="GPUs of a node")
    memory_gb: float = Field(gt=0, description="RAM of a node, GB")
    gpu_gb: float | None = Field(
        None,
        gt=0,
        description="memory of one GPU, GB; with it the budget can tell the size of L1, and of an "
        "L2 that is given by ratio",
    )


class Memory(_Model):
    """What the memory budget may count on."""

    host_gb: float | None = Field(None, gt=0, description="RAM of a node for this cluster, GB")


class Traffic(_Model):
    """What the requests will look like, as far as checks can use it."""

    answer_tokens: int | None = Field(None, ge=1, description="shortest answer worth reusing")
    prompt_tokens: int | None = Field(None, ge=1, description="longest prompt")


class Timeouts(_Model):
    """Time limits in seconds; each wait ends with the name of what it waited for."""

    ray_s: float = Field(60, gt=0, description="local head up, or given address reached")
    store_s: float = Field(30, gt=0)
    worker_s: float = Field(600, gt=0, description="a server from start to healthy")
    gateway_s: float = Field(60, gt=0)
    proof_s: float = Field(180, gt=0)


class Network(_Model):
    """Where processes listen, and who else can reach them there."""

    address: str | None = Field(
        None,
        pattern=r"^[0-9A-Fa-f.:]+$",
        description="address of this machine on which workers and store listen, on a single node; "
        "unset: 127.0.0.1. Nodes of a Ray cluster are taken by the addresses they joined with",
    )
    private: bool = Field(
        False,
        description="a firewall or network policy lets only the cluster's nodes reach the ports of "
        "its workers and its store, which ask for no key",
    )


class Watch(_Model):
    """What the controller looks at while the cluster serves."""

    reuse_s: float = Field(
        60, ge=0, description="seconds between canaries that prove reuse again; 0: none"
    )


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
    store: Store = Field(default_factory=lambda: MooncakeStore())
    gateway: Gateway = Field(default_factory=lambda: Gateway())
    memory: Memory = Field(default_factory=lambda: Memory())
    nodes: Nodes | None = Field(None, description="unset: this machine")
    traffic: Traffic = Field(default_factory=lambda: Traffic())
    timeouts: Timeouts = Field(default_factory=lambda: Timeouts())
    network: Network = Field(default_factory=lambda: Network())
    watch: Watch = Field(default_factory=lambda: Watch())

    def worker(self, role: Role) -> Worker:
        """The settings of one worker role."""
        return self.prefill if role is Role.PREFILL else self.decode


def dump(topology: Topology) -> dict[str, Any]:
    """The topology as plain data, only what the user set."""
    return topology.model_dump(mode="json", exclude_unset=True)
