"""Prefill's sender of page indices, without pinned tensors or CUDA events."""

from __future__ import annotations

from pdcache.sglang_cpu.targets import Target

SENDER = Target(
    "sglang.srt.disaggregation.mooncake.conn", "MooncakeKVSender", "supports_host_tensor_indices"
)


def send_plain_indices() -> None:
    """Make prefill hand page indices to Mooncake as they are.

    Otherwise SGLang 0.5.23 (disaggregation/prefill.py, `send_kv_chunk`) copies them to a pinned
    tensor and records a `torch.cuda.Event`, which need a GPU.
    """
    SENDER.set(False)
