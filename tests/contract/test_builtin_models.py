"""The built-in models in the hands of transformers: they load, render a chat, and answer.

transformers runs in a process of its own, so that torch is loaded once and with one thread.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pdcache.models import BUILTIN_MODELS, cache, resolve_model

QUESTION = "What is the capital of France?"

# Prints one JSON object. torchvision is hidden as its compiled part wants a CUDA build of torch.
ASK = """
import json, sys
sys.modules["torchvision"] = None
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
torch.set_num_threads(1)
folder, question = sys.argv[1:]
config = AutoConfig.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

def answer(ids, tokens):
    ids = torch.tensor([ids])
    mask = torch.ones_like(ids)
    out = model.generate(ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False)
    return out[0, ids.shape[1]:].tolist()

chat = tokenizer.apply_chat_template(
    [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False)
ids = tokenizer(chat)["input_ids"]
generated = answer(ids, 16)
long = tokenizer("the river and the old stone bridge " * 40)["input_ids"]
changed = [long[1], *long[1:]]
print(json.dumps({
    "config": config.to_dict(),
    "vocabulary": len(tokenizer),
    "special": [tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token],
    "chat": chat,
    "ids": ids,
    "generated": generated,
    "text": tokenizer.decode(generated),
    "read_back": tokenizer(chat + tokenizer.decode(generated))["input_ids"],
    "long": answer(long, 16),
    "long_changed_at_its_first_token": answer(changed, 16),
}))
"""


def asked(name: str) -> dict[str, Any]:
    command = [sys.executable, "-c", ASK, resolve_model(name), QUESTION]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.fixture(scope="module")
def smollm2() -> dict[str, Any]:
    return asked("smollm2-135m")


@pytest.fixture(scope="module")
def tiny_random() -> dict[str, Any]:
    return asked("tiny-random")


def test_smollm2_answers_a_question_it_knows(smollm2: dict[str, Any]) -> None:
    assert smollm2["text"] == "The capital of France is Paris.<|im_end|>"


def test_smollm2_has_the_same_weights_on_every_machine() -> None:
    manifest = json.loads((Path(resolve_model("smollm2-135m")) / cache.MANIFEST).read_text())
    assert manifest["files"]["model.safetensors"]["sha256"] == (
        "56e546a09baa914b9adcd1c494e1406d38a554d6059a2e80573cf2cf65f0f297"
    )


def test_smollm2_renders_a_chat_with_its_own_template(smollm2: dict[str, Any]) -> None:
    assert smollm2["chat"] == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        f"<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert smollm2["special"] == ["<|im_start|>", "<|im_end|>", "<|im_end|>"]
    assert smollm2["vocabulary"] == 49152


def test_tiny_random_renders_a_chat(tiny_random: dict[str, Any]) -> None:
    expected = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    assert tiny_random["chat"] == expected


@pytest.mark.parametrize(
    ("name", "fixture"), [("smollm2-135m", "smollm2"), ("tiny-random", "tiny_random")]
)
def test_transformers_reads_the_configuration_that_plans_rely_on(
    name: str, fixture: str, request: pytest.FixtureRequest
) -> None:
    read = request.getfixturevalue(fixture)["config"]
    ours = dict(BUILTIN_MODELS[name].config)
    dtype, theta = ours.pop("torch_dtype"), ours.pop("rope_theta")
    assert {key: read[key] for key in ours} == ours
    assert read["dtype"] == dtype
    assert read["rope_parameters"]["rope_theta"] == theta


def test_what_tiny_random_says_depends_on_the_first_of_many_tokens(
    tiny_random: dict[str, Any],
) -> None:
    assert len(tiny_random["long"]) == 16
    assert tiny_random["long"] != tiny_random["long_changed_at_its_first_token"]


def test_what_tiny_random_says_is_not_one_word_over_and_over(tiny_random: dict[str, Any]) -> None:
    assert len(set(tiny_random["generated"])) > 4


def test_a_chat_with_tiny_random_reads_back_as_the_tokens_it_was(
    tiny_random: dict[str, Any],
) -> None:
    assert tiny_random["read_back"] == tiny_random["ids"] + tiny_random["generated"]
