from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pdcache.replay.answer_stream import GenerateStream
from pdcache.replay.event_lines import EventLines

texts = st.text(st.characters(blacklist_categories=["Cs"]), max_size=8)
events = st.lists(texts, max_size=12)
line_ends = st.sampled_from([b"\n", b"\r\n"])


def cut(data: bytes, at: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in at)})
    return [data[left:right] for left, right in pairwise(places)]


@given(events, line_ends, st.lists(st.integers(min_value=0), max_size=30))
def test_the_same_events_come_out_however_the_bytes_are_cut(
    sent: list[str], end: bytes, at: list[int]
) -> None:
    payloads = [json.dumps({"text": text}, ensure_ascii=False).encode() for text in sent]
    data = b"".join(b"data: " + payload + end + end for payload in payloads)
    lines = EventLines()
    got = [event for chunk in cut(data, at) for event in lines.feed(chunk)]
    assert got == payloads


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.booleans(), st.data())
def test_an_answer_is_the_same_however_the_bytes_are_cut(
    ids: list[int], incremental: bool, data: st.DataObject
) -> None:
    body = b": ping\n\n"
    for end in range(1, len(ids) + 1):
        shown = ids[end - 1 : end] if incremental else ids[:end]
        event = {"output_ids": shown, "meta_info": {"completion_tokens": end}}
        body += b"data: " + json.dumps(event).encode() + b"\n\n"
    body += b"data: [DONE]\n\n"
    chunks = cut(body, data.draw(st.lists(st.integers(0, len(body)), max_size=25)))
    lines, stream = EventLines(), GenerateStream()
    for at_s, chunk in enumerate(chunks):
        for event_data in lines.feed(chunk):
            stream.feed(event_data, float(at_s))
    assert stream.output_ids == ids
    assert stream.done and stream.error is None
    assert len(stream.stamps_s) == len(ids) and stream.stamps_s == sorted(stream.stamps_s)


@given(st.binary(max_size=300), st.lists(st.integers(min_value=0), max_size=10))
def test_no_bytes_make_the_reader_raise(data: bytes, at: list[int]) -> None:
    lines, stream = EventLines(), GenerateStream()
    for chunk in cut(b"data: " + data + b"\n", at):
        for event_data in lines.feed(chunk):
            stream.feed(event_data, 0.0)
    assert not stream.done


def test_comments_blank_lines_and_other_fields_give_nothing() -> None:
    assert EventLines().feed(b": ping\n\nevent: x\r\nid: 7\n\ndata:1\n") == [b"1"]
