"""The tiny model: the same bytes everywhere; a vocabulary that survives the way through text."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from pdcache.models import tiny_random
from pdcache.models.builtin import BUILTIN_MODELS, TINY_RANDOM
from pdcache.models.hf_folder import llama_shapes

CONFIG = BUILTIN_MODELS[TINY_RANDOM].config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_random.make(folder, lambda line: None)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def weights(folder: Path) -> dict[str, numpy.ndarray]:
    return load_file(folder / "model.safetensors")


def answer_tokens(weights: dict[str, numpy.ndarray]) -> list[int]:
    return [int(number) for number in numpy.flatnonzero(weights["lm_head.weight"].any(axis=1))]


def test_its_weights_are_the_same_bytes_on_every_machine(folder: Path) -> None:
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert digest == "d5ea689f58b3226bc293436b615d86c3f3b352a584d08c3b29b2e4b9c1f16f6f"


def test_its_tensors_are_those_of_a_llama(weights: dict[str, numpy.ndarray]) -> None:
    assert {name: array.shape for name, array in weights.items()} == llama_shapes(CONFIG)


def test_its_matrices_are_spread_as_a_normal_distribution(
    weights: dict[str, numpy.ndarray],
) -> None:
    values = weights["model.embed_tokens.weight"]
    assert abs(values.mean()) < 0.005
    assert values.std() == pytest.approx(0.25, rel=0.01)
    assert (abs(values) < 0.25).mean() == pytest.approx(0.68, abs=0.02)


def test_it_can_only_say_whole_words_of_its_list(
    weights: dict[str, numpy.ndarray], tokenizer: Tokenizer
) -> None:
    said = {tokenizer.decode([number]) for number in answer_tokens(weights)}
    assert len(said) == len(answer_tokens(weights)) > 250
    assert {" cache", " decode", " prefill"} <= said
    assert all(word.startswith(" ") and word[1:].isalpha() for word in said)


def test_an_answer_read_back_from_text_is_the_same_tokens(
    weights: dict[str, numpy.ndarray], tokenizer: Tokenizer
) -> None:
    prompt = "<|im_start|>user\nTell me, e.g. 3 things?<|im_end|>\n<|im_start|>assistant\n"
    end = "<|im_end|>\n<|im_start|>user\nGo on<|im_end|>\n"
    before, after = tokenizer.encode(prompt).ids, tokenizer.encode(end).ids
    answers = random.Random(0).choices(answer_tokens(weights), k=2000)
    text = prompt + tokenizer.decode(answers) + end
    assert tokenizer.encode(text).ids == before + answers + after


@pytest.mark.parametrize("text", ["Hello, world!", "größe 日本 🎉", "a\n\n b\t c", "x" * 300, ""])
def test_any_text_survives_its_tokenizer(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_the_special_tokens_have_the_numbers_of_its_configuration(tokenizer: Tokenizer) -> None:
    ids = [CONFIG[f"{name}_token_id"] for name in ("pad", "bos", "eos")]
    assert [tokenizer.id_to_token(number) for number in ids] == [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
    ]


def test_its_vocabulary_fits_the_model(tokenizer: Tokenizer) -> None:
    assert 259 < tokenizer.get_vocab_size() <= CONFIG["vocab_size"]
