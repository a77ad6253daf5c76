"""The CPU lane's attention backend, under a name of its own in SGLang."""

from __future__ import annotations

from typing import Any

import torch
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.layers.radix_attention import AttentionType
from sglang.srt.mem_cache.memory_pool import KVWriteLoc

from pdcache.sglang_cpu import ATTENTION_BACKEND, cores
from pdcache.sglang_cpu.attention import (
    Decode,
    Suffix,
    decode_attention,
    decodes,
    extend_attention,
    plan_decode,
    plan_extend,
)
from pdcache.sglang_cpu.targets import Target

REGISTER = Target("sglang.srt.layers.attention.attention_registry", "register_attention_backend")
ADD_CHOICES = Target("sglang.srt.server_args", "add_attention_backend_choices")


class CpuAttentionBackend(TorchNativeAttnBackend):  # type: ignore[misc]
    """SGLang's `torch_native`, except where its cost is not that of the work.

    SGLang 0.5.23 (layers/attention/torch_native_backend.py) pads the query of an extend step to
    the whole sequence, so that a request whose prefix is cached pays for the prefix again, and
    takes the requests of a decode step one at a time. Sliding windows, cross attention, encoder
    prefixes and values of another dim than keys keep SGLang's own code, as does decode with heads
    or dtypes that `decode.c` does not take.
    """

    suffixes: list[Suffix] | None = None
    decode: Decode | None = None

    def init_forward_metadata(self, forward_batch: Any) -> None:
        """Plan the step that follows; called once before the layers run."""
        super().init_forward_metadata(forward_batch)
        self.suffixes = self.decode = None
        mode, table = forward_batch.forward_mode, self.req_to_token_pool.req_to_token
        if forward_batch.encoder_lens is not None or mode.is_idle():
            return
        rows = forward_batch.req_pool_indices
        if mode.is_decode():
            self.decode = plan_decode(table, rows, forward_batch.seq_lens)
        elif forward_batch.extend_seq_lens is not None:
            lengths = (forward_batch.extend_prefix_lens, forward_batch.extend_seq_lens)
            self.suffixes = plan_extend(
                table, rows.tolist(), *(tokens.tolist() for tokens in lengths)
            )

    def forward_extend(
        self,
        q: torch.Tensor,
        k: torch.Tensor | None,
        v: torch.Tensor | None,
        layer: Any,
        forward_batch: Any,
        save_kv_cache: bool = True,
    ) -> torch.Tensor:
        """Attention of one layer over the new tokens: [tokens, query heads x dim]."""
        cores.adapt()
        if self.suffixes is None or _special(layer):
            attended: torch.Tensor = super().forward_extend(
                q, k, v, layer, forward_batch, save_kv_cache
            )
            return attended
        keys, values = self._cache(k, v, layer, forward_batch, save_kv_cache)
        return extend_attention(
            q.reshape(-1, layer.tp_q_head_num, layer.qk_head_dim),
            keys,
            values,
            self.suffixes,
            scaling=layer.scaling,
            causal=layer.attn_type != AttentionType.ENCODER_ONLY,
        ).reshape(q.shape[0], -1)

    def forward_decode(
        self,
        q: torch.Tensor,
        k: torch.Tensor | None,
        v: torch.Tensor | None,
        layer: Any,
        forward_batch: Any,
        save_kv_cache: bool = True,
    ) -> torch.Tensor:
        """Attention of one layer, one new token a request: [requests, query heads x dim]."""
        if self.decode is None or _special(layer) or not self._decodes(layer):
            attended: torch.Tensor = super().forward_decode(
                q, k, v, layer, forward_batch, save_kv_cache
            )
            return attended
        keys, values = self._cache(k, v, layer, forward_batch, save_kv_cache)
        return decode_attention(
            q.reshape(-1, layer.tp_q_head_num, layer.qk_head_dim),
            keys,
            values,
            self.decode,
            scaling=layer.scaling,
        ).reshape(q.shape[0], -1)

    def _decodes(self, layer: Any) -> bool:
        pool = self.token_to_kv_pool
        keys, values = pool.get_key_buffer(layer.layer_id), pool.get_value_buffer(layer.layer_id)
        return decodes(keys) and decodes(values) and keys.dtype == values.dtype

    def _cache(
        self,
        k: torch.Tensor | None,
        v: torch.Tensor | None,
        layer: Any,
        forward_batch: Any,
        save: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The layer's keys and values, the new ones written; waits for what HiCache loads."""
        pool = self.token_to_kv_pool
        if save and k is not None and v is not None:
            where = KVWriteLoc(forward_batch.out_cache_loc, self.swa_out_cache_loc)
            pool.set_kv_buffer(layer, where, k, v)
        return pool.get_key_buffer(layer.layer_id), pool.get_value_buffer(layer.layer_id)


def register_backend() -> None:
    """Make `ATTENTION_BACKEND` a backend and a value of `--attention-backend`.

    SGLang 0.5.23 loads plugins before it parses arguments (launch_server.py). By name it treats
    `torch_native` specially where Triton, HIP, NPU or FP4 caches could be in play, none of which a
    CPU has, and in switching CUDA graphs off (arg_groups/attention_hook.py), which `SERVER_FLAGS`
    do.
    """
    REGISTER.get()(ATTENTION_BACKEND)(CpuAttentionBackend)
    ADD_CHOICES.get()([ATTENTION_BACKEND])


def _special(layer: Any) -> bool:
    window = layer.sliding_window_size
    return (
        layer.is_cross_attention
        or layer.qk_head_dim != layer.v_head_dim
        or (window is not None and window > -1)
    )
