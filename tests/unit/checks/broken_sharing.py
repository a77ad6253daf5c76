"""YAML that breaks the rules on ranks, storage backends, decode and what excludes them."""

from __future__ import annotations

from broken import Broken

from pdcache.topology.facts import Node

CODE = {
    "pages.py": "from elsewhere import Base, Other\n\nclass Pages(Base): ...\n",
    "deep/er.py": "class Deep: ...\nAlso = Deep\n",
    "broken.py": "class Pages(\n",
}
"""What a ``dynamic`` store with a key `code` sends to its workers."""

DYNAMIC = (
    "store: {backend: dynamic, backend_name: x, module_path: pages, class_name: Pages, code: /code"
)
MLA = "model: {path: deepseek-ai/DeepSeek-R1}\n"
KERNEL_HEADS = "hicache: {layout: page_head, io_backend: kernel}\n"
TWO_NODES = (Node("10.0.0.1", 64 << 30), Node("10.0.0.2", 64 << 30))
GPUS = "device: cuda\ntransfer: {backend: mooncake_tcp}\n"


def taken_out(rule: str, yaml: str, severity: str, path: str) -> Broken:
    """A case whose fix is to take the path out."""
    return Broken(rule, yaml, severity, path, fixed_by_yaml=False)


BROKEN_SHARING = [
    # Ranks of a server
    Broken("parallel-sizes", "prefill: {tp: 3, attn_dp: 2}", "error", "prefill.attn_dp"),
    Broken("parallel-sizes", "decode: {tp: 3, ep: 2}", "error", "decode.ep"),
    Broken("parallel-sizes", "prefill: {tp: 3, nodes: 2}", "error", "prefill.nodes"),
    Broken("parallel-sizes", "prefill: {tp: 2, pp: 3, nodes: 4}", "error", "prefill.nodes"),
    Broken("parallel-sizes", "prefill: {dp: 2, tp: 2, attn_dp: 2}", "error", "prefill.dp"),
    Broken("parallel-sizes", "decode: {dp: 2, tp: 2, nodes: 2}", "error", "decode.dp"),
    Broken("tp-heads", "prefill: {tp: 2}\ndecode: {tp: 2}", "error", "prefill.tp"),
    Broken("tp-heads", "decode: {tp: 4, attn_dp: 2}", "error", "decode.tp"),
    Broken("tp-heads", "model: {path: tiny-random}\ndecode: {tp: 3}", "error", "decode.tp"),
    Broken("dp-affinity", "prefill: {tp: 2, attn_dp: 2}", "warning", "prefill.attn_dp"),
    Broken("prefill-dp", "prefill: {dp: 2, workers: 3}", "error", "prefill.dp"),
    Broken("prefill-dp", "prefill: {dp: 100}", "error", "prefill.dp"),
    # Pipeline stages
    Broken("pp", "prefill: {pp: 2}", "error", "decode.pp"),
    Broken("pp", "mode: prefill_only\nprefill: {pp: 4}\ndecode: {pp: 2}", "error", "decode.pp"),
    Broken("pp", "mode: prefill_only\ndecode: {pp: 2}", "error", "decode.pp"),
    Broken("pp-prefetch", "prefill: {pp: 2}\ndecode: {pp: 2}", "warning", "prefill.pp"),
    Broken("pipeline-keys", "prefill: {pp: 2}\nstore: {backend: hf3fs, path: /3fs}", "error",
           "prefill.pp"),
    Broken("pipeline-keys", "decode: {pp: 2}\nstore: {backend: nixl, path: /nfs}", "error",
           "decode.pp"),
    Broken("pipeline-keys", "mode: prefill_only\nprefill: {pp: 2}\n"
           "store: {backend: eic, config: {remote_url: x}}", "error", "prefill.pp"),
    # What a backend can take
    Broken("backend-layout", KERNEL_HEADS + "store: {backend: hf3fs, path: /3fs}", "error",
           "hicache.layout"),
    Broken("backend-layout", "hicache: {layout: layer_first}\n"
           "store: {backend: simm, manager: 'a:1'}", "error", "hicache.layout"),
    Broken("backend-layout", "decode: {hicache: {layout: page_head, io_backend: kernel}}\n"
           "store: {backend: simm, manager: 'a:1'}", "error", "decode.hicache.layout"),
    Broken("backend-layout", "prefill: {hicache: {io_backend: kernel}}\n"
           "hicache: {layout: page_head}\nstore: {backend: hf3fs, path: /3fs}", "error",
           "hicache.layout"),
    Broken("backend-layout", "hicache: {layout: layer_first, io_backend: kernel_ascend}", "error",
           "hicache.layout"),
    Broken("mla-layout", MLA + KERNEL_HEADS, "error", "hicache.layout"),
    Broken("mla-layout", MLA + "prefill: {hicache: {layout: page_head, io_backend: kernel}}\n"
           "store: {backend: eic, config: {remote_url: x}}", "error", "prefill.hicache.layout"),
    taken_out("backend-mla", MLA + "store: {backend: aibrix}", "error", "store.backend"),
    Broken("layout-copies", "hicache: {layout: layer_first}\nstore: {backend: nixl, path: /nfs}",
           "info", "hicache.layout"),
    Broken("layout-copies", "hicache: {layout: page_first_direct}\n"
           "store: {backend: eic, config: {remote_url: x}}", "info", "hicache.layout"),
    # Options and variables
    taken_out("owned-option", "store: {extra: {prefetch_threshold: 64}}", "error",
              "store.extra.prefetch_threshold"),
    taken_out("owned-option", "store: {extra: {master_server_address: 'a:1'}}", "error",
              "store.extra.master_server_address"),
    taken_out("owned-option", "store: {extra: {tenant_id: a}}", "error", "store.extra.tenant_id"),
    taken_out("owned-option", DYNAMIC + ", extra: {interface_v1: 1}}", "error",
              "store.extra.interface_v1"),
    taken_out("owned-option", "store: {backend: file, path: /nfs, extra: {max_size: 1Gi}}",
              "error", "store.extra.max_size"),
    taken_out("owned-option", "store: {backend: hf3fs, path: /3fs, "
              "extra: {use_mock_hf3fs_client: false}}", "error",
              "store.extra.use_mock_hf3fs_client"),
    taken_out("unread-option", "store: {backend: aibrix, extra: {folder: /x}}", "error",
              "store.extra.folder"),
    taken_out("unread-option", "store: {backend: hf3fs, path: /3fs, extra: {numjobs: 4}}",
              "error", "store.extra.numjobs"),
    taken_out("simm-tag", "store: {backend: simm, manager: 'a:1', extra: {extra_backend_tag: x}}",
              "error", "store.extra.extra_backend_tag"),
    taken_out("simm-tag", "store: {backend: simm, manager: 'a:1', namespace: x}", "error",
              "store.namespace"),
    taken_out("owned-env", "store: {backend: file, path: /nfs}\n"
              "decode: {env: {SGLANG_HICACHE_FILE_BACKEND_STORAGE_DIR: /other}}", "error",
              "decode.env.SGLANG_HICACHE_FILE_BACKEND_STORAGE_DIR"),
    taken_out("owned-env", "decode: {env: {SGLANG_HICACHE_DECODE_OFFLOAD_STRIDE: '64'}}", "error",
              "decode.env.SGLANG_HICACHE_DECODE_OFFLOAD_STRIDE"),
    # Stores made of files
    Broken("shared-path", "store: {backend: file, path: /tmp/kv, max_size_gb: 1}", "error",
           "store.path", nodes=TWO_NODES),
    Broken("shared-path", "store: {backend: nixl, path: /tmp/../dev/shm}", "error", "store.path",
           nodes=TWO_NODES),
    Broken("shared-path", "mode: prefill_only\nprefill: {workers: 2}\n"
           "store: {backend: hf3fs, path: /var/tmp/x/}", "error", "store.path", nodes=TWO_NODES),
    Broken("file-growth", "store: {backend: file, path: /nfs}", "warning", "store.max_size_gb"),
    Broken("nixl-path", "store: {backend: nixl}", "error", "store.path"),
    Broken("nixl-path", "store: {backend: nixl, plugin: OBJ}", "error", "store.bucket"),
    Broken("nixl-path", "store: {backend: nixl, plugin: OBJ}\n"
           "prefill: {env: {AWS_DEFAULT_BUCKET: b}}", "error", "store.bucket"),
    taken_out("nixl-path", "store: {backend: nixl, plugin: OBJ, bucket: b, path: /nfs}", "error",
              "store.path"),
    taken_out("nixl-path", "store: {backend: nixl, plugin: 3FS, bucket: b, path: /3fs}", "error",
              "store.bucket"),
    Broken("hf3fs-client", "store: {backend: hf3fs, path: /3fs, mock_client: false}", "error",
           "store.mock_client"),
    Broken("hf3fs-client", GPUS + "store: {backend: hf3fs, path: /3fs, mock_client: true}",
           "warning", "store.mock_client"),
    taken_out("hf3fs-metadata", "store: {backend: hf3fs, path: /3fs, "
              "metadata_server: 'http://a:18000'}", "info", "store.metadata_server"),
    # Mooncake
    Broken("tenant", "store: {tenant: a}", "error", "store.tenant_quota_gb"),
    taken_out("tenant", "store: {tenant: a, master: 'a:50051'}", "warning", "store.tenant"),
    taken_out("tenant", "store: {tenant_quota_gb: 1}", "error", "store.tenant_quota_gb"),
    taken_out("tenant", "store: {tenant: a, tenant_quota_gb: 1, master: 'a:50051'}", "error",
              "store.tenant_quota_gb"),
    Broken("no-segment", "store: {holders: 0}", "error", "store.holders"),
    Broken("worker-segment", "store: {worker_segment_gb: 0.5}", "warning",
           "store.worker_segment_gb"),
    Broken("worker-segment", "store: {holders: 0, worker_segment_gb: 0.5}", "warning",
           "store.worker_segment_gb"),
    # A backend of one's own
    Broken("dynamic-module", DYNAMIC.replace("module_path: pages", "module_path: page") + "}",
           "error", "store.module_path"),
    taken_out("dynamic-module", DYNAMIC.replace("pages", "x.y").replace("Pages", "Z") + "}",
              "error", "store.module_path"),
    taken_out("dynamic-module", DYNAMIC.replace("pages", "broken") + "}", "error",
              "store.module_path"),
    Broken("dynamic-module", DYNAMIC.replace("Pages", "Page") + "}", "error", "store.class_name"),
    Broken("no-sharing", DYNAMIC + ", shares: false}", "error", "store.shares"),
    Broken("no-sharing", "mode: prefill_only\nprefill: {workers: 2}\n" + DYNAMIC +
           ", shares: false}", "error", "store.shares"),
    # Pools of another shape
    Broken("dcp", MLA + "decode: {args: {dcp-size: 2}}\nprefill: {args: {dcp-size: 2}}\n"
           "store: {backend: hf3fs, path: /3fs}", "error", "decode.args.dcp-size"),
    Broken("dcp", "prefill: {args: {dcp_size: 2}}\ndecode: {args: {dcp_size: 2}}", "error",
           "prefill.args.dcp_size"),
    Broken("dcp", MLA + "prefill: {args: {decode-context-parallel-size: 2}}\nmode: prefill_only",
           "error", "prefill.args.decode-context-parallel-size"),
    Broken("dcp", MLA + "decode: {args: {dcp_size: 2}}", "error", "decode.args.dcp_size"),
    Broken("unified-memory", "decode: {args: {enable-unified-memory: true}}", "error",
           "decode.args.enable-unified-memory"),
    Broken("unified-memory", "decode: {args: {enable-unified-memory: true}}", "error",
           "hicache.layout"),
    Broken("unified-memory", "mode: prefill_only\nprefill: {args: {enable_unified_memory: true}, "
           "hicache: {layout: page_first}}", "warning", "prefill.hicache.layout"),
    Broken("unified-memory", "transfer: {backend: nixl}\n"
           "prefill: {args: {enable_unified_memory: true}}", "error",
           "prefill.args.enable_unified_memory"),
    Broken("unified-memory", MLA + "decode: {args: {enable_unified_memory: true}}\n"
           "store: {backend: file, path: /nfs}", "error", "decode.args.enable_unified_memory"),
    Broken("unified-memory", "prefill: {pp: 2, args: {enable_unified_memory: true}}", "error",
           "prefill.args.enable_unified_memory"),
    # Decode
    Broken("decode-radix", "decode: {radix_cache: true}", "error", "decode.radix_cache"),
    Broken("retraction-backup", "decode: {retraction_backup: host_pool}", "error",
           "decode.retraction_backup"),
    Broken("offload-stride", "decode: {offload_stride: 128}", "warning", "decode.offload_stride"),
    Broken("offload-stride", "decode: {offload_stride: 100}", "warning", "decode.offload_stride"),
    Broken("offload-stride", "decode: {offload_stride: 16}", "warning", "decode.offload_stride"),
    taken_out("buffer-only", "decode: {hicache: {host_memory_mode: buffer_only}}", "error",
              "decode.hicache.host_memory_mode"),
    taken_out("no-effect", "prefill: {offload_stride: 64}", "error", "prefill.offload_stride"),
    taken_out("no-effect", "prefill: {retraction_backup: none}", "error",
              "prefill.retraction_backup"),
    taken_out("no-effect", "prefill: {radix_cache: true}", "error", "prefill.radix_cache"),
    taken_out("no-effect", "mode: prefill_only\ndecode: {offload_stride: 64}", "error",
              "decode.offload_stride"),
    taken_out("no-effect", "decode: {hicache: {prefetch_threshold: 0}}", "error",
              "decode.hicache.prefetch_threshold"),
    taken_out("no-effect", "decode: {hicache: {write_policy: write_through}}", "error",
              "decode.hicache.write_policy"),
    taken_out("no-effect", "decode: {hicache: {pass_prefix_keys: true}}", "error",
              "decode.hicache.pass_prefix_keys"),
    taken_out("no-effect", "decode: {hicache: {host_memory_mode: cache}}", "error",
              "decode.hicache.host_memory_mode"),
    taken_out("backend-package", "store: {backend: aibrix}", "error", "store.backend"),
    Broken("backend-package", "device: cuda\ntransfer: {backend: nixl}", "error",
           "transfer.backend"),
    taken_out("ha-ssd", "store: {ha: {}, ssd: {path: /ssd, size_gb: 10}}", "error", "store.ssd"),
    # Flags that exclude PD or HiCache
    taken_out("owned-flag", "prefill: {args: {enable-dp-attention: true}}", "error",
              "prefill.args.enable-dp-attention"),
    taken_out("disable-radix", "prefill: {args: {disable-radix-cache: true}}", "error",
              "prefill.args.disable-radix-cache"),
    taken_out("pd-excluded", "decode: {args: {--enable-pdmux: true}}", "error",
              "decode.args.--enable-pdmux"),
    taken_out("pd-excluded", "prefill: {args: {dllm_algorithm: LowConfidence}}", "error",
              "prefill.args.dllm_algorithm"),
    taken_out("pd-excluded", "prefill: {args: {enable_lmcache: true}}", "error",
              "prefill.args.enable_lmcache"),
    taken_out("pd-excluded", "prefill: {args: {radix_cache_backend: flexkv}}", "error",
              "prefill.args.radix_cache_backend"),
    taken_out("pd-excluded",
              "decode: {args: {mamba_radix_cache_strategy: extra_buffer_lazy}}", "error",
              "decode.args.mamba_radix_cache_strategy"),
    taken_out("pd-excluded", "decode: {args: {enable_pd_role_switch: true}}", "warning",
              "decode.args.enable_pd_role_switch"),
    taken_out("speculative", "mode: prefill_only\nprefill: {args: {speculative_algorithm: EAGLE}}",
              "warning", "prefill.args.speculative_algorithm"),
    Broken("lora-roles", "prefill: {args: {enable-lora: true}}", "error",
           "decode.args.enable_lora"),
    Broken("lora-roles", "decode: {args: {lora-paths: a=/a}}", "error",
           "prefill.args.lora_paths"),
    Broken("lora-roles", "prefill: {args: {lora_paths: a=/a}}\n"
           "decode: {args: {lora_paths: a=/b}}", "error", "decode.args.lora_paths"),
]  # fmt: skip
