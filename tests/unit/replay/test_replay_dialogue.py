from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pdcache.errors import ReplayError
from pdcache.replay import ChatTokenizer

TOKENS = st.lists(st.integers(0, 399), max_size=40)


def text_of(folder: Path, ids: list[int]) -> str:
    loaded = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return loaded.decode(ids, skip_special_tokens=False)


@pytest.fixture
def folder(make_model_folder: Callable[..., Path]) -> Path:
    return make_model_folder()


def test_the_first_prompt_is_the_rendered_template(folder: Path) -> None:
    ids = ChatTokenizer.from_folder(folder).first_prompt("Be brief.", "Hi.")
    assert text_of(folder, ids) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_what_stands_between_two_answers_closes_one_and_opens_the_next(folder: Path) -> None:
    ids = ChatTokenizer.from_folder(folder).between("And?")
    assert text_of(folder, ids) == (
        "<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_an_end_of_turn_in_the_answer_is_not_repeated(tokenizer: ChatTokenizer) -> None:
    between = tokenizer.between("And?")
    end_of_turn = between[0]
    closed = tokenizer.next_prompt([5, 6], [7, end_of_turn], "And?")
    assert closed == tokenizer.next_prompt([5, 6], [7], "And?")
    assert closed.count(end_of_turn) == between.count(end_of_turn)


def test_an_ordinary_token_that_happens_to_match_is_kept(
    make_model_folder: Callable[..., Path],
) -> None:
    plain = ChatTokenizer.from_folder(
        make_model_folder(
            "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}#{% endfor %}assistant:"
        )
    )
    between = plain.between("And?")
    assert plain.next_prompt([5], [between[0]], "And?") == [5, between[0], *between]


@given(previous=TOKENS, answer=TOKENS, user=st.text(min_size=1, max_size=30))
def test_the_next_prompt_starts_with_the_tokens_sent_and_received(
    tokenizer: ChatTokenizer, previous: list[int], answer: list[int], user: str
) -> None:
    following = tokenizer.next_prompt(previous, answer, user)
    assert following[: len(previous) + len(answer)] == [*previous, *answer]
    assert len(following) > len(previous) + len(answer)


def test_a_dialogue_in_tokens_reads_as_the_template_renders_it(folder: Path) -> None:
    chat = ChatTokenizer.from_folder(folder)
    answer = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("Well.").ids
    following = chat.next_prompt(chat.first_prompt(None, "Hi."), answer, "And?")
    assert text_of(folder, following) == (
        "<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\nWell.<|im_end|>\n"
        "<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_jinja_file_goes_before_the_config_and_blocks_are_trimmed(
    make_model_folder: Callable[..., Path],
) -> None:
    template = (
        "{{ bos_token }}{% for m in messages %}\n"
        "    {%- if m.role == 'skip' %}{% continue %}{% endif %}\n"
        "    {% if true %}\n"
        "{% generation %}{{ m.content | trim }}{% endgeneration %}{{ eos_token }}\n"
        "    {% endif %}\n"
        "{% endfor %}\n"
        "{% if tools is none and add_generation_prompt %}>{% endif %}"
    )
    folder = make_model_folder(jinja_file=template)
    chat = ChatTokenizer.from_folder(folder)
    assert text_of(folder, chat.first_prompt(None, " Hi. ")) == "<s>Hi.<|im_end|>\n>"
    assert text_of(folder, chat.between("And?")) == "<|im_end|>\nAnd?<|im_end|>\n>"


def test_of_several_templates_the_default_one_is_taken(
    make_model_folder: Callable[..., Path],
) -> None:
    folder = make_model_folder(
        [{"name": "rag", "template": "no"}, {"name": "default", "template": "yes"}]
    )
    assert text_of(folder, ChatTokenizer.from_folder(folder).first_prompt(None, "Hi.")) == "yes"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (None, "no chat template"),
        ("{% if %}", "not valid Jinja"),
        ("{{ raise_exception('no system role here') }}", "no system role here"),
    ],
)
def test_an_unusable_template_is_named(
    make_model_folder: Callable[..., Path], template: str | None, says: str
) -> None:
    folder = make_model_folder(template)
    with pytest.raises(ReplayError, match=says) as caught:
        ChatTokenizer.from_folder(folder).first_prompt("Be brief.", "Hi.")
    assert str(folder) in str(caught.value)


def test_a_template_that_drops_answers_is_refused(make_model_folder: Callable[..., Path]) -> None:
    folder = make_model_folder("{{ messages[-1]['content'] }}")
    with pytest.raises(ReplayError, match="drops earlier answers"):
        ChatTokenizer.from_folder(folder).between("And?")


def test_a_folder_without_a_readable_tokeniser_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match=r"no tokenizer\.json"):
        ChatTokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ReplayError, match="cannot be read"):
        ChatTokenizer.from_folder(tmp_path)
