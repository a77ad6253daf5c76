"""Prompts are put together from KV events whatever their order, and only from what can be read."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as some

from pdcache.sglang import kv_events
from pdcache.sglang.kv_events import NO_TOKEN, Blocks, Publisher, listen
from pdcache.sglang.page_keys import page_hashes

PAGE = 4
HELLO = tuple(range(100, 112))
OTHER = tuple(range(200, 208))
Event = dict[str, Any]


def names(tokens: Sequence[int], **namespace: str) -> list[int]:
    """The names of a prompt's pages in events."""
    hashes = page_hashes(tokens, PAGE, **namespace)
    return [int.from_bytes(bytes.fromhex(digest)[:8], "big", signed=True) for digest in hashes]


def stored(tokens: Sequence[int], *, after: int = 0, **namespace: str) -> Event:
    """SGLang's event for the pages of a prompt that follow its first ``after`` pages."""
    blocks = names(tokens, **namespace)
    return {
        "type": "BlockStored", "block_hashes": blocks[after:],
        "parent_block_hash": blocks[after - 1] if after else None,
        "token_ids": list(tokens[after * PAGE :]), "block_size": PAGE, "lora_id": None,
        "medium": "GPU",
    }  # fmt: skip


def message(*events: Any) -> list[bytes]:
    """The frames of one message."""
    return [b"", bytes(8), msgspec.msgpack.encode([1.5, events, 0])]


def heard(*events: Any) -> Blocks:
    blocks = Blocks(PAGE)
    for event in events:
        blocks.take(message(event))
    return blocks


def test_pages_of_one_event_are_one_prompt() -> None:
    assert heard(stored(HELLO)).chains() == [HELLO]


def test_later_turns_go_on_where_their_parent_ends() -> None:
    assert heard(stored(HELLO[:4]), stored(HELLO, after=1)).chains() == [HELLO]


def test_the_order_of_events_does_not_matter() -> None:
    parts = [stored(HELLO[:4]), stored(HELLO[:8], after=1), stored(HELLO, after=2), stored(OTHER)]
    for order in itertools.permutations(parts):
        assert sorted(heard(*order).chains()) == [HELLO, OTHER]


def test_dialogues_with_a_common_beginning_are_a_prompt_each() -> None:
    branch = (*HELLO[:4], *OTHER)
    blocks = heard(stored(HELLO), stored(branch, after=1))
    assert sorted(blocks.chains()) == [HELLO, branch]
    assert len(blocks) == 5


def test_without_a_parent_there_is_no_prompt() -> None:
    blocks = heard(stored(HELLO, after=1))
    assert blocks.chains() == []
    assert len(blocks) == 2
    assert blocks.unread == 0


def test_an_event_that_comes_twice_changes_nothing() -> None:
    blocks = heard(stored(HELLO), stored(HELLO) | {"medium": "CPU_PINNED"}, stored(HELLO, after=2))
    assert blocks.chains() == [HELLO]
    assert len(blocks) == 3


def test_pages_that_left_a_worker_are_still_a_prompt() -> None:
    removed = {"type": "BlockRemoved", "block_hashes": names(HELLO), "medium": "GPU"}
    blocks = heard(stored(HELLO), removed, {"type": "AllBlocksCleared"})
    assert blocks.chains() == [HELLO]
    assert blocks.unread == 0


@pytest.mark.parametrize(
    "event",
    [
        stored(OTHER, cache_salt="tenant") | {"cache_salt": "tenant"},
        stored(OTHER, extra_key="adapter") | {"lora_name": "adapter"},
        stored(OTHER, extra_key="shows in the names only"),
    ],
    ids=["cache_salt", "lora", "names"],
)
def test_prompts_of_a_namespace_are_left_out(event: Event) -> None:
    assert heard(stored(HELLO), event).chains() == [HELLO]


def test_a_page_that_is_named_after_other_tokens_ends_no_prompt() -> None:
    assert heard(stored(HELLO) | {"token_ids": [*HELLO[:11], 7]}).chains() == []


def test_prompts_with_pictures_are_left_out() -> None:
    picture = (*OTHER[:5], NO_TOKEN + 17, *OTHER[6:])
    assert heard(stored(HELLO), stored(picture)).chains() == [HELLO]


def test_pages_that_name_each_other_as_parents_are_no_prompt() -> None:
    first, second, third = names(HELLO)
    ring = stored(HELLO) | {"parent_block_hash": second}
    tail = {**stored(OTHER[:4]), "block_hashes": [5], "parent_block_hash": third}
    assert heard(ring, tail).chains() == []
    assert first != second


@pytest.mark.parametrize(
    "event",
    [
        {"type": "BlockMoved", "block_hashes": [1]},
        {"type": "BlockStored", "block_hashes": [1]},
        stored(HELLO) | {"token_ids": [[1, 2], [2, 3]]},
        stored(HELLO) | {"token_ids": [1, 2, 3]},
        stored(HELLO) | {"block_size": 16},
        ["BlockStored", [1], None, [1, 2, 3, 4], 4, None],
        "text",
        None,
    ],
    ids=["unknown", "no fields", "pairs", "too few", "page size", "array", "text", "nil"],
)
def test_an_event_that_cannot_be_read_costs_no_other(event: Any) -> None:
    blocks = Blocks(PAGE)
    blocks.take(message(stored(OTHER), event, stored(HELLO)))
    assert sorted(blocks.chains()) == [HELLO, OTHER]
    assert blocks.unread == 1


def test_a_message_that_is_cut_short_is_counted() -> None:
    *front, payload = message(stored(HELLO))
    for keep in range(len(payload)):
        blocks = Blocks(PAGE)
        blocks.take([*front, payload[:keep]])
        assert (len(blocks), blocks.unread) == (0, 1), keep


@given(some.lists(some.binary(max_size=60), max_size=4))
def test_no_bytes_raise(frames: list[bytes]) -> None:
    blocks = Blocks(PAGE)
    blocks.take(frames)
    assert blocks.chains() == []
    assert len(blocks) == 0


def test_deep_nesting_is_counted() -> None:
    blocks = Blocks(PAGE)
    blocks.take([b"", bytes(8), b"\x91" * 100_000])
    blocks.take([b"", bytes(8), b"\x93\x00\x91" + b"\x91" * 100_000 + b"\x00\x00"])
    assert blocks.unread == 2


@given(some.randoms(use_true_random=False), some.integers(1, 12))
def test_whole_dialogues_come_back_from_any_shuffle(source: random.Random, turns: int) -> None:
    tokens, events = [], []
    for _ in range(turns):
        after = len(tokens) // PAGE
        tokens += [source.randrange(500) for _ in range(PAGE * source.randint(1, 3))]
        events.append(stored(tokens, after=after))
    source.shuffle(events)
    assert heard(*events).chains() == [tuple(tokens)]


END = [b"", b"\xff" * 8, b""]


class StubPublisher:
    """Publishes messages once somebody has subscribed, and answers asks for replays; in a thread.

    Attributes:
        asked: the number of the first message that each ask wants.
    """

    def __init__(
        self, live: Sequence[list[bytes]] = (), replays: Sequence[Sequence[list[bytes]]] = ((END,),)
    ) -> None:
        self.context = zmq.Context()
        self.publish, self.replay = self.context.socket(zmq.XPUB), self.context.socket(zmq.ROUTER)
        ports = [s.bind_to_random_port("tcp://127.0.0.1") for s in (self.publish, self.replay)]
        self.as_publisher = Publisher("prefill-0", "127.0.0.1", *ports)
        self.live, self.replays = live, replays
        self.asked: list[int] = []
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.publish.recv()
        for frames in self.live:
            self.publish.send_multipart(frames)
        for answer in self.replays:
            client, empty, first = self.replay.recv_multipart()
            assert empty == b""
            self.asked.append(int.from_bytes(first, "big"))
            for frames in answer:
                self.replay.send_multipart([client, b"", *frames])

    def close(self) -> None:
        self.thread.join(5)
        assert not self.thread.is_alive(), "it was asked less often than expected"
        self.context.destroy(linger=0)


def numbered(number: int, event: Event) -> list[bytes]:
    """A message of that number."""
    topic, _, payload = message(event)
    return [topic, number.to_bytes(8, "big"), payload]


def test_what_is_told_live_and_what_is_replayed_are_both_heard() -> None:
    stub = StubPublisher(
        live=[message(stored(HELLO, after=1)), [b"no message"]],
        replays=[[numbered(7, stored(OTHER)), numbered(8, stored(HELLO[:4])), END]],
    )
    blocks, elapsed = Blocks(PAGE), []
    listen([stub.as_publisher], blocks, 1.5, on_progress=elapsed.append)
    stub.close()
    assert sorted(blocks.chains()) == [HELLO, OTHER]
    assert blocks.unread == 1
    assert elapsed == sorted(elapsed)
    assert len(elapsed) >= 3


def test_messages_that_a_replay_drops_are_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_events, "QUIET_S", 0.6)
    first, second, third = (
        numbered(at, stored(HELLO[: (at + 1) * PAGE], after=at)) for at in range(3)
    )
    # The second message is dropped, then the third with the end, then nothing.
    stub = StubPublisher(replays=[[first, third, END], [second], [third, END]])
    blocks = Blocks(PAGE)
    listen([stub.as_publisher], blocks, 3.0)
    stub.close()
    assert stub.asked == [0, 1, 2]
    assert blocks.chains() == [HELLO]


def test_a_publisher_that_is_gone_does_not_answer_and_is_waited_for_in_vain() -> None:
    stub = StubPublisher()
    assert stub.as_publisher.answers()
    listen([stub.as_publisher], Blocks(PAGE), 0.5)
    stub.close()
    assert not stub.as_publisher.answers()
    blocks = Blocks(PAGE)
    listen([stub.as_publisher], blocks, 0.3)
    assert (len(blocks), blocks.unread) == (0, 0)
