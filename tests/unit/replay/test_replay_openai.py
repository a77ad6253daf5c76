from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdcache.errors import ReplayError
from pdcache.replay import CachedTokens, ChatTokenizer, ReplaySpec, Session, Turn
from pdcache.replay.dialects import DIALECTS, GenerateRequest, dialect
from pdcache.replay.openai_stream import OpenAIStream

CHAT = DIALECTS["openai-chat"]
COMPLETIONS = DIALECTS["openai-completions"]


def fed(*events: object) -> OpenAIStream:
    stream = OpenAIStream()
    for at_s, event in enumerate(events):
        stream.feed(event if isinstance(event, bytes) else json.dumps(event).encode(), float(at_s))
    return stream


def said(text: str | None, **choice: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {"content": text}, **choice}]}


def usage(prompt: int, answer: int, cached: int | None) -> dict[str, object]:
    details = None if cached is None else {"cached_tokens": cached}
    counts = {"prompt_tokens": prompt, "completion_tokens": answer}
    return {"choices": [], "usage": {**counts, "prompt_tokens_details": details}}


def test_text_and_the_usage_of_the_last_chunk_are_read() -> None:
    role = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
    stream = fed(role, said("A b"), said("c"), said(None, finish_reason="length"),
                 usage(9, 4, 6), b"[DONE]")  # fmt: skip
    assert stream.text == "A bc"
    assert stream.stamps_s == [1.0, 2.0]
    assert (stream.prompt_tokens, stream.counted_tokens) == (9, 4)
    assert stream.cached == CachedTokens(device=6)
    assert stream.done


def test_token_ids_are_taken_where_the_server_sends_them() -> None:
    stream = fed({"choices": [{"text": "ab", "token_ids": [5, 6]}]}, usage(9, 2, None), b"[DONE]")
    assert stream.output_ids == [5, 6]
    assert stream.stamps_s == [0.0, 0.0]
    assert stream.cached == CachedTokens()


@pytest.mark.parametrize("first", ["usage", "tiers"])
def test_tiers_stand_before_the_sum(first: str) -> None:
    tiers = {"choices": [], "sglext": {"cached_tokens_details": {"device": 1, "storage": 5}}}
    both = [usage(9, 1, 6), tiers]
    stream = fed(said("a"), *(both if first == "usage" else reversed(both)), b"[DONE]")
    assert stream.cached == CachedTokens(device=1, storage=5)


def test_thoughts_are_tokens_and_no_text() -> None:
    stream = fed({"choices": [{"delta": {"reasoning_content": "hm"}}]}, said("a"), b"[DONE]")
    assert stream.text == "a"
    assert stream.stamps_s == [0.0, 1.0]


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ({"error": {"message": "decode lost"}}, "stream_error"),
        (said("b", finish_reason="abort"), "aborted"),
        ({"choices": "b"}, "bad_event"),
        (b"{", "bad_event"),
        (b"[DONE]", "broken_stream"),
    ],
)
def test_what_goes_wrong_is_kept_as_an_error(event: object, kind: str) -> None:
    stream = fed(event, said("late"), b"[DONE]")
    assert not stream.done
    assert stream.error is not None and stream.error.kind == kind


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.integers() | st.text(max_size=4),
    lambda of: st.lists(of, max_size=3) | st.dictionaries(
        st.sampled_from(["choices", "usage", "delta", "text", "sglext", "error"]), of, max_size=3
    ),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_no_event_makes_the_reader_raise(event: bytes) -> None:
    fed(event, event)


def test_bodies_ask_for_usage_and_exact_lengths() -> None:
    request = GenerateRequest([1, 2], 3, extra={"model": "m", "ignore_eos": None, "top_k": 1},
                              messages=({"role": "user", "content": "Hi."},))  # fmt: skip
    tokens, chat = (json.loads(own.body(request)) for own in (COMPLETIONS, CHAT))
    assert tokens["prompt"] == [1, 2] and tokens["max_tokens"] == 3
    assert chat["messages"] == [{"role": "user", "content": "Hi."}]
    assert chat["max_completion_tokens"] == 3
    for body in (tokens, chat):
        assert body["stream"] is True and body["stream_options"] == {"include_usage": True}
        assert body["model"] == "m" and body["top_k"] == 1 and body["temperature"] == 0
        assert "ignore_eos" not in body


def test_an_unknown_dialect_names_those_there_are() -> None:
    with pytest.raises(ReplayError, match="openai-completions"):
        dialect("grpc")


def chunks(exchange: Any, texts: list[str], chat: bool) -> list[dict[str, Any]]:
    said = [{"delta": {"content": text}} if chat else {"text": text} for text in texts]
    return [{"choices": [one]} for one in said] + [usage(40, len(texts) + 1, 16)]


@pytest.mark.parametrize("name", ["openai-chat", "openai-completions"])
def test_a_dialogue_goes_on_with_the_text_of_the_answer(
    replay: Any, tokenizer: ChatTokenizer, name: str
) -> None:
    bodies: list[dict[str, Any]] = []

    async def script(exchange: Any) -> None:
        bodies.append(exchange.body)
        await exchange.head()
        for chunk in chunks(exchange, ["the quiet", " harbour"], name == "openai-chat"):
            await exchange.event(chunk)
        await exchange.end()

    session = Session("s1", (Turn("Hi.", 3), Turn("And?", 3)), system="Be kind.")
    spec = ReplaySpec([session], tokenizer, 4, "full_offload", dialect=DIALECTS[name])
    first, second = replay(script, spec).result.records
    assert first.error is None and second.error is None
    assert second.output_tokens == 3 and second.cached == CachedTokens(device=16)
    assert second.tpot_s == pytest.approx(sum(second.gaps_s) / 2)
    if name == "openai-chat":
        assert [one["role"] for one in bodies[1]["messages"]] == [
            "system", "user", "assistant", "user",
        ]  # fmt: skip
        assert bodies[1]["messages"][2]["content"] == "the quiet harbour"
    else:
        known = [*bodies[0]["prompt"], *tokenizer.ids("the quiet harbour")]
        assert bodies[1]["prompt"][: len(known)] == known
        assert second.ceiling_tokens > 0


def test_blocks_are_refused_where_prompts_are_texts(replay: Any, tokenizer: ChatTokenizer) -> None:
    async def script(exchange: Any) -> None:
        raise AssertionError("nothing may be sent")

    session = Session("t1", (Turn(None, 3, blocks=(0,), input_tokens=5),), block_size=8)
    with pytest.raises(ReplayError, match=r"session t1.*openai-completions"):
        replay(script, ReplaySpec([session], tokenizer, 4, "full_offload", dialect=CHAT))
