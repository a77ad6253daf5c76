"""YAML that breaks each rule, and what is found in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import yaml
from broken import Broken
from broken_sharing import BROKEN_SHARING, CODE
from broken_sizes import BROKEN_SIZES
from golden.plans import MODELS, ONE_CPU_NODE, fixed_facts
from merging import merged

from pdcache.checks import Finding, check
from pdcache.topology import parse_topology
from pdcache.topology.facts import Facts, ModelView, Node, meant_nodes

BASE = """
name: small
mode: full_offload
device: cpu
model: {path: smollm2-135m}
"""

VIEWS = MODELS | {
    "other-weights": replace(MODELS["smollm2-135m"], weights_digest="other"),
    "other-tokenizer": replace(MODELS["smollm2-135m"], tokenizer_digest="other"),
    "./no-weights": ModelView(
        "./no-weights",
        problem="./no-weights: this model folder lacks weights.",
        remedy="Give a complete folder.",
    ),
}


BROKEN = [
    Broken(
        "kv-args",
        "prefill: {args: {kv-cache-dtype: fp8_e5m2}}",
        "error",
        "decode.args.kv_cache_dtype",
    ),
    Broken(
        "no-effect",
        "decode: {bootstrap_port: 9000}",
        "error",
        "decode.bootstrap_port",
        fixed_by_yaml=False,
    ),
    Broken(
        "no-effect",
        "decode: {hicache: {prefetch_policy: timeout}}",
        "error",
        "decode.hicache.prefetch_policy",
        fixed_by_yaml=False,
    ),
    Broken("page-size", "decode: {page_size: 32}", "error", "decode.page_size"),
    Broken(
        "layout",
        "prefill: {hicache: {io_backend: kernel, layout: page_first}}",
        "error",
        "decode.hicache.layout",
    ),
    Broken(
        "layout",
        "hicache: {layout: page_first, io_backend: kernel}\n"
        "decode: {hicache: {io_backend: direct}}",
        "error",
        "decode.hicache.io_backend",
    ),
    Broken("dtype", "decode: {dtype: bfloat16}", "error", "decode.dtype"),
    Broken("dtype", "prefill: {dtype: float16}", "error", "decode.dtype"),
    Broken("served-name", "decode: {served_name: other}", "error", "decode.served_name"),
    Broken("model-files", "model: {path: ./no-weights}", "error", "model.path"),
    Broken("model-files", "decode: {model_path: ./no-weights}", "error", "decode.model_path"),
    Broken("model-files", "prefill: {model_path: ./no-weights}", "error", "prefill.model_path"),
    Broken("model-files", "decode: {model_path: other-weights}", "error", "decode.model_path"),
    Broken("tokenizer", "decode: {tokenizer_path: other-tokenizer}", "error",
           "decode.tokenizer_path"),
    Broken("tokenizer", "decode: {model_path: other-tokenizer}", "error",
           "decode.tokenizer_path"),
    Broken("tp", "prefill: {tp: 2}", "error", "decode.tp"),
    Broken("tp", "prefill: {tp: 2, attn_dp: 2}\ndecode: {tp: 2}", "error", "decode.tp"),
    Broken("tp", "prefill: {tp: 2}\nstore: {tp_lcm_size: 2}", "error", "decode.tp"),
    Broken("tp", "prefill: {tp: 2}\nhicache: {layout: page_head, io_backend: kernel}\n"
           "store: {tp_lcm_size: 3}", "error", "decode.tp"),
    Broken("owned-flag", "prefill: {args: {page-size: 32}}", "error", "prefill.args.page-size",
           fixed_by_yaml=False),
    Broken("owned-flag", "decode: {args: {--hicache_mem_layout: page_head}}", "error",
           "decode.args.--hicache_mem_layout", fixed_by_yaml=False),
    Broken("mode-flags", "mode: prefill_only\ndecode: {hicache: {ratio: 2.0}}", "error",
           "decode.hicache"),
    Broken("mode-flags", "prefill: {args: {speculative-algorithm: EAGLE}}", "error",
           "prefill.args.speculative-algorithm"),
    Broken("owned-flag", "decode: {args: {disaggregation-decode-enable-radix-cache: true}}",
           "error", "decode.args.disaggregation-decode-enable-radix-cache", fixed_by_yaml=False),
    Broken("mode-flags", "decode: {args: {enable-hisparse: true}}", "error",
           "decode.args.enable-hisparse", fixed_by_yaml=False),
    Broken("prefetch-threshold", "hicache: {prefetch_threshold: 256}", "error",
           "hicache.prefetch_threshold"),
    Broken("prefetch-threshold", "prefill: {hicache: {prefetch_threshold: 65}}", "error",
           "prefill.hicache.prefetch_threshold"),
    Broken("write-policy", "hicache: {write_policy: write_back}", "error",
           "hicache.write_policy"),
    Broken("write-policy", "prefill: {hicache: {write_policy: write_through_selective}}", "error",
           "prefill.hicache.write_policy"),
    Broken("prefetch-policy", "hicache: {prefetch_policy: best_effort}", "warning",
           "hicache.prefetch_policy"),
    Broken("layout-switch", "hicache: {layout: page_first, io_backend: direct}", "warning",
           "hicache.layout"),
    Broken("layout-switch", "hicache: {layout: page_first_direct, io_backend: kernel}", "warning",
           "hicache.io_backend"),
    Broken("layout-switch", "hicache: {layout: layer_first, io_backend: kernel}", "warning",
           "hicache.layout"),
    Broken("layout-support", "hicache: {layout: page_head, io_backend: direct}", "error",
           "hicache.io_backend"),
    Broken("layout-support", "hicache: {layout: page_first_kv_split, io_backend: kernel}",
           "error", "hicache.layout"),
    Broken("layout-support", "hicache: {io_backend: kernel_ascend}", "error",
           "hicache.io_backend"),
    Broken("l2-ratio", "hicache: {ratio: 0.5}", "error", "hicache.ratio"),
    Broken("l2-ratio", "prefill: {hicache: {ratio: 1.2}}", "warning", "prefill.hicache.ratio"),
    Broken("chunk-size", "prefill: {chunked_prefill_size: 100}", "error",
           "prefill.chunked_prefill_size"),
    Broken("chunk-size", "prefill: {chunked_prefill_size: 7}", "error",
           "prefill.chunked_prefill_size"),
    Broken("segment-size", "store: {segment_gb: 0.01}", "error", "store.segment_gb"),
    Broken("segment-size", "store: {worker_segment_gb: 0.03}\nprefill: {tp: 2}\n"
           "decode: {tp: 2}", "error", "store.worker_segment_gb"),
    Broken("host-memory", "prefill: {max_total_tokens: 100000}", "error", "hicache.ratio"),
    Broken("host-memory", "store: {segment_gb: 12}", "error", "store.segment_gb"),
    Broken("host-memory", "hicache: {size_gb: 12}", "error", "hicache.size_gb"),
    Broken("host-memory", "decode: {hicache: {size_gb: 12}}", "error",
           "decode.hicache.size_gb"),
    Broken("host-memory", "memory: {host_gb: 7}\nprefill: {max_total_tokens: 4096}", "error",
           "store.segment_gb"),
    Broken("host-memory", "device: cuda\nprefill: {mem_fraction_static: 0.8}", "info",
           "hicache.size_gb", nodes=(Node(gpus=2, memory_bytes=1 << 40),)),
    Broken("gpus", "device: cuda", "warning", "device"),
    Broken("gpus", "device: cuda\nprefill: {tp: 4}\ndecode: {tp: 4}", "warning", "device",
           nodes=tuple(Node(gpus=2, memory_bytes=1 << 40) for _ in range(4))),
    Broken("port-clash", "prefill: {port: 8000}", "error", "prefill.port", fixed_by_yaml=False),
    Broken("port-clash", "store: {port: 20500, metrics_port: 20500}", "error", "store.port",
           fixed_by_yaml=False),
    Broken("port-clash", "store: {port: 20500, metrics_port: 20501, ha: {masters: 2}}", "error",
           "store.metrics_port", fixed_by_yaml=False),
    Broken("port-clash", "store: {backend: hf3fs, path: /3fs, port: 8000}", "error", "store.port",
           fixed_by_yaml=False),
    Broken("port-clash", "prefill: {kv_events: {}}\ndecode: {kv_events: {}}", "error",
           "decode.kv_events.port", fixed_by_yaml=False),
    Broken("port-clash", "prefill: {workers: 2, kv_events: {port: 5557, replay_port: 5558}}",
           "error", "prefill.kv_events.replay_port", fixed_by_yaml=False),
    Broken("port-clash", "prefill: {workers: 2, bootstrap_port: 8998}\ndecode: {port: 8999}",
           "error", "decode.port", fixed_by_yaml=False),
    Broken("gateway-exposed", "gateway: {host: 0.0.0.0}", "error", "gateway.key_file"),
    Broken("workers-exposed", "", "warning", "network.private", nodes=(Node("10.0.0.9"),)),
    Broken("owned-flag", "decode: {args: {tensor-parallel-size: 2}}", "error",
           "decode.args.tensor-parallel-size", fixed_by_yaml=False),
    Broken("owned-flag", "prefill: {args: {--tp: 2}}", "error", "prefill.args.--tp",
           fixed_by_yaml=False),
    Broken("args", "prefill: {args: {enable-mixed-chunks: true}}", "error",
           "prefill.args.enable-mixed-chunks", fixed_by_yaml=False),
    Broken("args", "decode: {args: {no-such-thing: 1}}", "error", "decode.args.no-such-thing",
           fixed_by_yaml=False),
    Broken("args", "prefill: {args: {kv-cache-dt: fp8_e5m2}}", "error",
           "prefill.args.kv-cache-dt", fixed_by_yaml=False),
    Broken("args", "prefill: {args: {kv-cache-dtype: fp8}}", "error",
           "prefill.args.kv-cache-dtype"),
    Broken("args", "decode: {args: {--enable-mixed-chunk: 'yes'}}", "error",
           "decode.args.--enable-mixed-chunk"),
    Broken("args", "decode: {args: {stream_interval: 2.0}}", "error",
           "decode.args.stream_interval"),
    Broken("args", "decode: {args: {watchdog_timeout: false}}", "error",
           "decode.args.watchdog_timeout"),
    Broken("args", "decode: {args: {chat_template: true}}", "error",
           "decode.args.chat_template", fixed_by_yaml=False),
    Broken("args", "decode: {args: {enable-tf32-matmul: false}}", "error",
           "decode.args.enable-tf32-matmul", fixed_by_yaml=False),
    Broken("args", "decode: {args: {config: more.yaml}}", "error", "decode.args.config",
           fixed_by_yaml=False),
    Broken("args", "prefill: {args: {disable-cuda-graph: true}}", "warning",
           "prefill.args.disable-cuda-graph", fixed_by_yaml=False),
    *BROKEN_SIZES,
    *BROKEN_SHARING,
]  # fmt: skip


def world(nodes: Iterable[Node] = ONE_CPU_NODE) -> Facts:
    """Nodes, models of which some cannot be used together, and packages that are not there."""
    return fixed_facts(
        nodes, models=VIEWS, code=CODE, missing=frozenset({"aibrix_kvcache", "nixl"})
    )


def data_of(text: str) -> dict[str, Any]:
    """`BASE` with a YAML text laid over it."""
    return merged(yaml.safe_load(BASE), yaml.safe_load(text) or {})


def facts_of(case: Broken, data: Mapping[str, Any]) -> Facts:
    """The world of a case: its nodes, or those that the topology is meant for."""
    topology = parse_topology(yaml.safe_dump(dict(data)), source="t.yaml")
    return world(meant_nodes(topology) if case.nodes is None else case.nodes)


def findings_of(data: Mapping[str, Any], facts: Facts, *skip: str) -> list[Finding]:
    """What the checks find in a topology given as data."""
    return check(parse_topology(yaml.safe_dump(dict(data)), source="t.yaml"), facts, skip=skip)
