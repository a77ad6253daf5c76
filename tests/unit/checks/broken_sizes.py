"""YAML that breaks the rules on sizes, times, ports, devices and nodes."""

from __future__ import annotations

from broken import Broken

from pdcache.topology.facts import Node

ON_GPUS = "device: cuda\nmodel: {path: Qwen/Qwen3-8B}\ntransfer: {backend: mooncake_tcp}\n"
MEANT = ON_GPUS + "nodes: {memory_gb: 1000, gpus: 8, gpu_gb: 80, count: COUNT}\n"
ONE_MEANT = MEANT.replace("COUNT", "1")
BIG = (Node(memory_bytes=1 << 40, gpus=8),)
NO_RDMA = (Node(memory_bytes=1 << 40, gpus=8, rdma=()),)
RDMA = (Node(memory_bytes=1 << 40, gpus=8, rdma=("mlx5_0", "mlx5_1")),)
TIMEOUT = "hicache: {prefetch_policy: timeout, prefetch_timeout_base_s: 0, "

BROKEN_SIZES = [
    # L1 and the context
    Broken("l1-size", "traffic: {prompt_tokens: 8190}", "error", "prefill.max_total_tokens"),
    Broken("l1-size", "prefill: {max_total_tokens: 16384}\nmodel: {context_length: 8192}\n"
           "traffic: {prompt_tokens: 8186}", "error", "decode.max_total_tokens"),
    Broken("l1-size", "prefill: {max_total_tokens: 63}", "error", "prefill.max_total_tokens"),
    Broken("l1-size", ONE_MEANT + "traffic: {prompt_tokens: 600000}", "error",
           "prefill.tp", nodes=BIG),
    Broken("l1-size", ONE_MEANT.replace("gpu_gb: 80", "gpu_gb: 8"), "error", "decode.tp",
           nodes=BIG),
    Broken("l1-size", ONE_MEANT.replace("gpu_gb: 80", "gpu_gb: 0.1"), "error", "prefill.tp",
           nodes=BIG),
    Broken("l1-size", "model: {context_length: 4096}\ndecode: {max_total_tokens: 2000}", "warning",
           "model.context_length"),
    Broken("context", "model: {context_length: 8193}", "error", "model.context_length"),
    Broken("context", "model: {context_length: 9000}\n"
           "prefill: {env: {SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN: '1'}}\n"
           "decode: {env: {SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN: 'True'}}", "warning",
           "model.context_length"),
    Broken("context", "traffic: {prompt_tokens: 8186}", "error", "traffic.prompt_tokens"),
    Broken("context", "model: {context_length: 1000}\ntraffic: {prompt_tokens: 1000}", "error",
           "model.context_length"),
    # L2 and staging
    Broken("l2-ratio", "hicache: {ratio: 1.0}", "error", "hicache.ratio"),
    Broken("l2-ratio", "hicache: {size_gb: 1}\nprefill: {max_total_tokens: 30000}", "error",
           "hicache.size_gb"),
    Broken("l2-ratio", "prefill: {max_total_tokens: 16000, hicache: {size_gb: 1}}", "warning",
           "prefill.hicache.size_gb"),
    Broken("l2-ratio", ONE_MEANT + "hicache: {size_gb: 20}", "error", "hicache.size_gb",
           nodes=BIG),
    Broken("prefetch-limit", "traffic: {prompt_tokens: 8000}\nhicache: {ratio: 1.5}", "warning",
           "hicache.ratio"),
    Broken("prefetch-limit", "traffic: {prompt_tokens: 12000}\nprefill: {hicache: {size_gb: 1}}",
           "warning", "prefill.hicache.size_gb"),
    Broken("prefetch-limit", "traffic: {prompt_tokens: 8000}\nhicache: {ratio: 1.0, "
           "host_memory_mode: buffer_only}", "warning", "hicache.ratio"),
    Broken("staging", "decode: {hicache: {ratio: 0.05}}", "warning", "decode.hicache.ratio"),
    Broken("staging", "decode: {max_running_requests: 64}", "warning", "decode.hicache.ratio"),
    Broken("staging", "decode: {offload_stride: 512}", "warning", "decode.hicache.ratio"),
    Broken("staging", "decode: {hicache: {size_gb: 1}, max_running_requests: 400}", "warning",
           "decode.hicache.size_gb"),
    Broken("staging", "decode: {hicache: {ratio: 2.0}}", "warning", "decode.hicache.ratio"),
    Broken("staging", ON_GPUS + "decode: {hicache: {ratio: 1.0}}", "warning",
           "decode.hicache.ratio", nodes=BIG),
    # L3
    Broken("l3-size", "store: {segment_gb: 0.5}", "warning", "store.segment_gb"),
    Broken("l3-size", "store: {segment_gb: 1, holders: 2}\nprefill: {workers: 3, tp: 2, "
           "hicache: {size_gb: 1}}", "warning", "store.segment_gb"),
    Broken("l3-size", "store: {holders: 0, worker_segment_gb: 0.3}", "warning",
           "store.worker_segment_gb"),
    Broken("l3-size", "store: {segment_gb: 0.1, ssd: {path: /ssd, size_gb: 0.2}}", "warning",
           "store.ssd.size_gb"),
    Broken("l3-size", "store: {tenant: a, tenant_quota_gb: 0.5}", "warning",
           "store.tenant_quota_gb"),
    Broken("l3-size", "store: {tenant: a, tenant_quota_gb: 0.5, segment_gb: 0.2}", "warning",
           "store.tenant_quota_gb"),
    Broken("l3-size", "store: {backend: file, path: /nfs, max_size_gb: 0.7}", "warning",
           "store.max_size_gb"),
    Broken("hf3fs-file", "store: {backend: hf3fs, path: /3fs, file_size_gb: 0.002}", "error",
           "store.file_size_gb"),
    Broken("hf3fs-file", "store: {backend: hf3fs, path: /3fs, file_size_gb: 1}\n"
           "prefill: {workers: 2}", "warning", "store.file_size_gb"),
    # host memory
    Broken("host-memory", "memory: {host_gb: 3}", "error", "store.segment_gb"),
    Broken("host-memory", "prefill: {workers: 12, max_total_tokens: 1024}\n"
           "store: {segment_gb: 0.1}", "error", "decode.max_total_tokens"),
    Broken("host-memory", ONE_MEANT.replace("1000", "110"), "error", "hicache.ratio", nodes=None),
    Broken("host-memory", ONE_MEANT.replace("1000", "70"), "error", "hicache.ratio", nodes=None),
    Broken("host-memory", ONE_MEANT + "memory: {host_gb: 2}\nstore: {holders: 0}\n"
           "prefill: {hicache: {size_gb: 1}}\ndecode: {hicache: {size_gb: 1}}", "error",
           "memory.host_gb", nodes=BIG),
    Broken("host-memory", ON_GPUS + "prefill: {tp: 8}", "info", "hicache.size_gb",
           nodes=(Node(memory_bytes=128 << 30, gpus=16),)),
    Broken("host-memory", ON_GPUS + "decode: {hicache: {ratio: 0.5}}\nhicache: {size_gb: 1}",
           "info", "decode.hicache.size_gb", nodes=(Node(memory_bytes=9 << 30, gpus=2),)),
    # pages
    Broken("block-page-size", ON_GPUS + "page_size: 48", "warning", "page_size", nodes=BIG),
    Broken("block-page-size", ON_GPUS + "decode: {page_size: 1}", "warning", "decode.page_size",
           nodes=BIG),
    Broken("large-page", "page_size: 512", "warning", "page_size"),
    Broken("large-page", "traffic: {answer_tokens: 40}", "warning", "page_size"),
    Broken("large-page", "traffic: {prompt_tokens: 50, answer_tokens: 20}", "error", "page_size"),
    Broken("large-page", "mode: prefill_only\nprefill: {page_size: 128}\n"
           "traffic: {prompt_tokens: 100}", "error", "prefill.page_size"),
    # times
    Broken("prefetch-timeout", TIMEOUT + "prefetch_timeout_per_ki_token_s: 0.001}", "warning",
           "hicache.prefetch_timeout_per_ki_token_s"),
    Broken("prefetch-timeout", TIMEOUT + "prefetch_timeout_per_ki_token_s: 0}", "warning",
           "hicache.prefetch_timeout_per_ki_token_s"),
    Broken("prefetch-timeout", "hicache: {prefetch_policy: timeout, prefetch_timeout_base_s: 0.01}"
           "\nprefill: {hicache: {prefetch_timeout_per_ki_token_s: 0}}", "warning",
           "prefill.hicache.prefetch_timeout_per_ki_token_s"),
    Broken("timeout-unused", "hicache: {prefetch_timeout_base_s: 3}", "warning",
           "hicache.prefetch_timeout_base_s", fixed_by_yaml=False),
    Broken("timeout-unused", "prefill: {hicache: {prefetch_policy: best_effort, "
           "prefetch_timeout_per_ki_token_s: 1}}", "warning",
           "prefill.hicache.prefetch_timeout_per_ki_token_s", fixed_by_yaml=False),
    Broken("prefetch-threshold", "hicache: {prefetch_threshold: 192}\n"
           "traffic: {answer_tokens: 192}", "error", "hicache.prefetch_threshold"),
    Broken("prefetch-threshold", "mode: prefill_only\nhicache: {prefetch_threshold: 512}\n"
           "traffic: {prompt_tokens: 500}", "error", "hicache.prefetch_threshold"),
    # ports
    Broken("port-range", "prefill: {port: 65535, workers: 2}", "error", "prefill.port"),
    Broken("port-range", "decode: {kv_events: {port: 65530, replay_port: 6000}, workers: 8}",
           "error", "decode.kv_events.port"),
    Broken("sglang-ports", "prefill: {port: 30000, tp: 2, attn_dp: 2}\n"
           "decode: {port: 30239, tp: 2, attn_dp: 2}", "error", "decode.port",
           fixed_by_yaml=False),
    Broken("sglang-ports", "gateway: {port: 30240}\nprefill: {port: 30000, workers: 2, tp: 2, "
           "attn_dp: 2}\ndecode: {tp: 2, attn_dp: 2}", "warning", "gateway.port",
           fixed_by_yaml=False, nodes=(Node(), Node("10.0.0.2"))),
    # RDMA and transfer
    Broken("ib-device", "transfer: {ib_device: mlx5_9}\nstore: {protocol: tcp}", "error",
           "transfer.ib_device", nodes=RDMA),
    Broken("ib-device", 'transfer: {ib_device: \'{"0": "mlx5_0", "1": "mlx5_7,mlx5_1"}\'}',
           "error", "transfer.ib_device", nodes=RDMA),
    Broken("ib-device", "transfer: {ib_device: mlx5_0}", "error", "transfer.ib_device",
           nodes=NO_RDMA),
    Broken("ib-device", "store: {protocol: rdma, device: 'mlx5_0,mlx5_2'}", "error",
           "store.device", nodes=RDMA),
    Broken("ib-device", "store: {protocol: rdma, device: mlx5_0}\nprefill: {workers: 2}", "error",
           "store.device", nodes=(*RDMA, Node("10.0.0.2", 1 << 40, rdma=("bond_0",)))),
    Broken("rdma", "store: {protocol: rdma}", "warning", "store.protocol", nodes=NO_RDMA),
    Broken("rdma", ON_GPUS, "warning", "store.protocol", nodes=NO_RDMA),
    Broken("rdma", ON_GPUS + "transfer: {backend: mooncake}", "warning", "transfer.backend",
           nodes=NO_RDMA),
    Broken("transfer-backend", "transfer: {backend: nixl}", "error", "transfer.backend"),
    Broken("transfer-backend", "transfer: {backend: mori}", "error", "transfer.backend"),
    Broken("transfer-backend", ON_GPUS + "transfer: {backend: ascend}", "error",
           "transfer.backend", nodes=BIG),
    # what servers tell
    Broken("metrics-off", "prefill: {metrics: false}", "warning", "prefill.metrics"),
    Broken("metrics-off", "decode: {metrics: false}", "warning", "decode.metrics"),
    Broken("metrics-off", "decode: {cache_report: false}", "warning", "decode.cache_report"),
    # nodes
    Broken("nodes", "prefill: {nodes: 2, tp: 2}", "error", "prefill.nodes"),
    Broken("nodes", ONE_MEANT + "decode: {nodes: 3, tp: 3}", "error", "decode.nodes", nodes=None),
    Broken("gpus", ONE_MEANT + "prefill: {tp: 8}", "warning", "nodes.count", nodes=None),
    Broken("gpus", ONE_MEANT + "prefill: {tp: 4, workers: 2}\ndecode: {tp: 8}", "warning",
           "nodes.count", nodes=None),
    Broken("gpus", ONE_MEANT + "prefill: {tp: 16}", "warning", "nodes.count", nodes=None),
    Broken("gpus", ONE_MEANT.replace("gpus: 8", "gpus: 0"), "warning", "nodes.count", nodes=None),
    Broken("gpus", ONE_MEANT + "prefill: {tp: 16, workers: 1024}", "warning", "device", nodes=None),
]  # fmt: skip
