from __future__ import annotations

import json

import pytest

from pdcache.replay import CachedTokens
from pdcache.replay.answer_stream import GenerateStream


def fed(*events: object) -> GenerateStream:
    stream = GenerateStream()
    for at_s, event in enumerate(events):
        data = event if isinstance(event, str) else json.dumps(event)
        stream.feed(data.encode(), float(at_s))
    return stream


def event(ids: list[int], total: int | None = None, **meta: object) -> dict[str, object]:
    counted = {} if total is None else {"completion_tokens": total}
    return {"output_ids": ids, "meta_info": {**counted, **meta}}


def test_cumulative_lists_replace_each_other() -> None:
    stream = fed(event([5], 1), event([5, 6, 7], 3), "[DONE]")
    assert stream.output_ids == [5, 6, 7]
    assert stream.stamps_s == [0.0, 1.0, 1.0]
    assert stream.done


def test_incremental_lists_follow_each_other() -> None:
    assert fed(event([5], 1), event([6], 2), event([7, 8], 4), "[DONE]").output_ids == [5, 6, 7, 8]


def test_a_repeated_token_is_not_taken_for_the_whole_answer() -> None:
    assert fed(event([5], 1), event([5], 2), event([5, 5], 4)).output_ids == [5, 5, 5, 5]


def test_without_a_count_a_list_that_goes_on_from_the_answer_is_the_whole() -> None:
    assert fed(event([5]), event([5, 6]), event([5, 6, 7])).output_ids == [5, 6, 7]
    assert fed(event([5]), event([6]), event([7])).output_ids == [5, 6, 7]


def test_a_finish_reason_ends_the_answer_before_the_end_marker() -> None:
    assert fed(event([5], 1, finish_reason={"type": "length"})).done


def test_what_follows_the_end_is_ignored() -> None:
    stream = fed(event([5], 1), "[DONE]", event([9], 2))
    assert stream.output_ids == [5]
    assert stream.error is None


def test_tokens_are_counted_by_tier() -> None:
    details = {"device": 3, "host": 2, "storage": 1, "storage_backend": "none"}
    stream = fed(event([5], 1, cached_tokens=6, cached_tokens_details=details))
    assert stream.cached == CachedTokens(3, 2, 1)


def test_tokens_without_tiers_are_the_devices() -> None:
    stream = fed(event([5], 1, cached_tokens=6, cached_tokens_details=None))
    assert stream.cached == CachedTokens(device=6)


def test_two_tiers_without_storage_are_read() -> None:
    stream = fed(event([5], 1, cached_tokens_details={"device": 3, "host": 2}))
    assert stream.cached == CachedTokens(3, 2, 0)


@pytest.mark.parametrize(
    ("data", "kind", "says"),
    [
        ({"error": {"message": "too long", "code": 400}}, "stream_error", "too long"),
        ({"error": "gone"}, "stream_error", "gone"),
        ({"error": {"code": 7}}, "stream_error", '{"code": 7}'),
        (event([], 0, finish_reason={"type": "abort", "message": "flushed"}), "aborted", "flushed"),
        ("{'error': 'x'}", "bad_event", "{'error': 'x'}"),
        ("[1]", "bad_event", "[1]"),
        ({"output_ids": "abc"}, "bad_event", '"abc"'),
        ({"output_ids": ["a"]}, "bad_event", '["a"]'),
        ({"output_ids": [-1]}, "bad_event", "[-1]"),
        ("[" * 100_000, "bad_event", "[[["),
        ({"output_ids": [1], "meta_info": "m"}, "bad_event", '"m"'),
    ],
)
def test_what_goes_wrong_is_kept_as_an_error(data: object, kind: str, says: str) -> None:
    stream = fed(event([5], 1), data, event([5, 6], 2), "[DONE]")
    assert not stream.done
    assert stream.output_ids == [5]
    assert stream.error is not None
    assert stream.error.kind == kind
    assert says in stream.error.message


def test_an_end_without_a_token_is_an_error() -> None:
    stream = fed("[DONE]")
    assert not stream.done
    assert stream.error is not None
    assert stream.error.kind == "broken_stream"
