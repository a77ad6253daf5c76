"""A two-layer Llama with random weights: starts at once, and its output depends on every token.

Two properties make it a good test subject. Its files are the same bytes on every machine: weights
come from raw generator bits by integer arithmetic, tokens from a word list. And what it says
survives the way through text: it answers in whole words of the list only (never a stop token), so
re-tokenizing a chat gives back the very tokens that were generated.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdcache.errors import ModelError
from pdcache.models import hf_folder
from pdcache.models.builtin import BUILTIN_MODELS, TINY_RANDOM
from pdcache.models.cache import Progress

if TYPE_CHECKING:
    import numpy
    from tokenizers import Tokenizer

_CONFIG = BUILTIN_MODELS[TINY_RANDOM].config
_SEED = 23
_STD = 0.25  # large enough that attention is sharp and an early token changes the answer

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_SPACE = "Ġ"  # how byte-level BPE writes a leading space
_WORD_LIST = """
a about after again all also always an and answer any are as at back batch be because before block
book both box bridge brown but by cache call can child city clear cloud cluster code cold color
come cool copy count country day decode deep device did different do does dog down each early end
even every far fast few field find first five follow food for form found four fox friend from full
garden get give go good great green had half hand hard has have head help her here high him his
home host hot hour how idea if in into is it its jump just keep key kind know large last late lazy
learn left letter light like line list little live long look low made make many map may memory men
might model more most mother mountain move much must name near need never new next night no north
not now number of off often old on one only open or other our out over own page paper part people
place plan plant play point prefill prompt question quick quiet rain read red right river road room
round run said same say school sea second see sentence serve server set seven share she short show
side sky slow small so some song soon sound south stand star start still stop storage store story
study such summer sun table take tell ten than that the their them then there these they thing
think this three through tier time to together token too tree turn two under until up use value
very voice walk wall want warm was watch water way we well were west what wheel when where which
while white who why will wind window winter with without wood word work world would write year
yellow yes you young your
"""
_WORDS = tuple(_WORD_LIST.split())


def make(folder: Path, progress: Progress) -> None:
    """Write the model's files into `folder` (1.1 MB, about a second).

    Raises:
        ModelError: numpy or tokenizers is missing.
    """
    try:
        import numpy  # noqa: F401
        import tokenizers  # noqa: F401
    except ImportError as error:
        raise ModelError(
            f"making {TINY_RANDOM} needs the package {error.name}, which is not installed.",
            remedy="Run `make setup`, or: pip install numpy tokenizers",
        ) from error
    progress(f"{TINY_RANDOM}: making")
    vocabulary, merges = _vocabulary()
    answers = [vocabulary[_SPACE + word] for word in _WORDS]
    shapes = hf_folder.llama_shapes(_CONFIG)
    hf_folder.write_weights(folder / "model.safetensors", "F32", shapes, _weights(shapes, answers))
    hf_folder.write_config(folder, _CONFIG)
    hf_folder.write_tokenizer(folder, _tokenizer(vocabulary, merges), _CONFIG, _CHAT_TEMPLATE)


def _vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    from tokenizers import pre_tokenizers

    tokens = [*_SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = []
    for word in _WORDS:
        prefix = _SPACE
        for letter in word:
            # Every merge lengthens a prefix that starts with the space, so a listed word
            # always becomes one token, whatever stands around it.
            if prefix + letter not in vocabulary:
                merges.append((prefix, letter))
                vocabulary[prefix + letter] = len(vocabulary)
            prefix += letter
    if len(vocabulary) > _CONFIG["vocab_size"]:
        raise ValueError(f"{len(vocabulary)} tokens do not fit vocab_size")
    return vocabulary, merges


def _tokenizer(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in _SPECIAL]
    )
    return tokenizer


def _weights(
    shapes: dict[str, tuple[int, ...]], answers: list[int]
) -> Iterator[numpy.ndarray[Any, Any]]:
    import numpy

    bits = numpy.random.PCG64(_SEED)
    for name, shape in shapes.items():
        if len(shape) == 1:
            yield numpy.ones(shape, dtype=numpy.float32)
            continue
        values = _bell(bits, shape)
        if name == "lm_head.weight":
            silent = numpy.setdiff1d(numpy.arange(shape[0]), answers)
            values[silent] = 0.0
        yield values


def _bell(bits: numpy.random.PCG64, shape: tuple[int, ...]) -> numpy.ndarray[Any, Any]:
    # The sum of four uniform 16-bit numbers is near enough to normal, and unlike numpy's normal()
    # it is the same on every machine and in every version of numpy.
    import numpy

    rows, columns = shape
    raw = numpy.asarray(bits.random_raw(rows * columns)).astype("<u8")
    quarters = raw.view("<u2").reshape(-1, 4).astype(numpy.int64)
    centred = quarters.sum(axis=1) - 2 * 0xFFFF
    unit = 0x10000 / 3**0.5  # standard deviation of the sum: 2 * 65536 / sqrt(12)
    values: numpy.ndarray[Any, Any] = centred * (_STD / unit)
    return values.astype(numpy.float32).reshape(shape)
