"""KV events: what prefill workers tell over ZMQ of the pages they store, and the prompts in them.

Wire format (sglang 0.5.23 ``disaggregation/kv_events.py``): frames topic, sequence number, payload;
the payload is a msgpack array ``[ts, events, rank]`` whose events are maps with a ``type``.

Token ids are users' text. They stay in this process: nothing here prints, logs or writes them.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import zmq

from pdcache.sglang.page_keys import page_hashes

POLL_MS = 250
CONNECT_LIMIT_S = 2.0
QUIET_S = 1.0
END = -1
"""The number of the message that ends a replay."""

NO_TOKEN = 1_000_000
"""Ids from here on stand for pictures and sound (sglang 0.5.23 ``MM_PAD_SHIFT_VALUE``)."""

Block = int
"""A page's name in events: the first 64 bits of its hash, signed."""


class _Stored(msgspec.Struct, tag="BlockStored"):
    block_hashes: list[Block]
    parent_block_hash: Block | None
    token_ids: list[int]
    block_size: int
    cache_salt: str | None = None
    lora_name: str | None = None


class _Removed(msgspec.Struct, tag="BlockRemoved"):
    pass


class _Cleared(msgspec.Struct, tag="AllBlocksCleared"):
    pass


class _Batch(msgspec.Struct, array_like=True):
    ts: float
    events: list[msgspec.Raw]


_BATCH = msgspec.msgpack.Decoder(_Batch)
_EVENT = msgspec.msgpack.Decoder(_Stored | _Removed | _Cleared)
_UNREADABLE = (msgspec.DecodeError, RecursionError)


class Blocks:
    """Pages by name, in any order, from any number of workers; chains of them are prompts.

    A page that was removed or cleared is kept: its text is the same, and L3 may still hold it.
    Pages of a namespace (``cache_salt``, LoRA) are left out. An ``extra_key`` shows in no event
    (sglang 0.5.23 ``mem_cache/utils.py`` ``compute_node_event_hash_values``): its prompts are heard
    as if they had none.

    Attributes:
        unread: frames and events that could not be decoded, or have another page size.
    """

    def __init__(self, page_size: int) -> None:
        self.page_size = page_size
        self.unread = 0
        self._pages: dict[Block, tuple[Block | None, tuple[int, ...]]] = {}

    def __len__(self) -> int:
        return len(self._pages)

    def take(self, frames: Sequence[bytes]) -> None:
        """Take in one message; what cannot be read is counted, never raised."""
        try:
            events = _BATCH.decode(frames[-1]).events if len(frames) == 3 else None
        except _UNREADABLE:
            events = None
        if events is None:
            self.unread += 1
            return
        for event in events:
            try:
                self._add(_EVENT.decode(event))
            except _UNREADABLE:
                self.unread += 1

    def chains(self) -> list[tuple[int, ...]]:
        """Token ids from the root to every page that no other page follows: the longest prompts.

        Whole pages, without namespaces, without pictures, and with the last page's name being that
        of these tokens.
        """
        followed = {parent for parent, _ in self._pages.values()}
        ends = (block for block in self._pages if block not in followed)
        return [chain for block in ends if (chain := self._chain(block)) is not None]

    def _add(self, event: _Stored | _Removed | _Cleared) -> None:
        if not isinstance(event, _Stored) or event.cache_salt or event.lora_name:
            return
        size, parent = event.block_size, event.parent_block_hash
        if size != self.page_size or len(event.token_ids) != size * len(event.block_hashes):
            self.unread += 1
            return
        for at, block in enumerate(event.block_hashes):
            page = tuple(event.token_ids[at * size : (at + 1) * size])
            self._pages.setdefault(block, (parent, page))
            parent = block

    def _chain(self, end: Block) -> tuple[int, ...] | None:
        pages: list[tuple[int, ...]] = []
        block: Block | None = end
        while block is not None:
            known = self._pages.get(block)
            if known is None or len(pages) == len(self._pages):  # a missing parent, or a ring
                return None
            block, page = known
            pages.append(page)
        tokens = tuple(token for page in reversed(pages) for token in page)
        if not all(0 <= token < NO_TOKEN for token in tokens):
            return None
        return tokens if _name(page_hashes(tokens, self.page_size)[-1]) == end else None


def _name(page_hash: str) -> Block:
    """Source: sglang 0.5.23 ``mem_cache/utils.py`` ``hash_str_to_int64``."""
    return int.from_bytes(bytes.fromhex(page_hash)[:8], "big", signed=True)


@dataclass(frozen=True)
class Publisher:
    """One worker's rank that publishes.

    Attributes:
        address, port: of its events.
        replay_port: where its last 10,000 messages can be asked for; None: nowhere.
    """

    worker: str
    address: str
    port: int
    replay_port: int | None = None

    def answers(self) -> bool:
        """Somebody accepts connections there."""
        with contextlib.suppress(OSError):
            socket.create_connection((self.address, self.port), CONNECT_LIMIT_S).close()
            return True
        return False


def listen(
    publishers: Sequence[Publisher],
    blocks: Blocks,
    seconds: float,
    *,
    on_progress: Callable[[float], None] = lambda elapsed_s: None,
) -> None:
    """Collect events for that long, those that replay ports still have among them.

    Live messages and those of a replay may overlap; ``blocks`` takes both.

    Args:
        on_progress: called a few times a second.
    """
    begin = time.monotonic()
    with zmq.Context() as context, contextlib.ExitStack() as stack:
        poller = zmq.Poller()
        live = stack.enter_context(context.socket(zmq.SUB))
        live.setsockopt(zmq.LINGER, 0)
        live.subscribe(b"")
        poller.register(live, zmq.POLLIN)
        replays: dict[zmq.SyncSocket, _Replay] = {}
        for own in publishers:
            live.connect(f"tcp://{own.address}:{own.port}")
            if own.replay_port is not None:
                past = stack.enter_context(context.socket(zmq.DEALER))
                past.setsockopt(zmq.LINGER, 0)
                past.setsockopt(zmq.RCVHWM, 0)
                past.connect(f"tcp://{own.address}:{own.replay_port}")
                poller.register(past, zmq.POLLIN)
                replays[past] = _Replay(past)
        while (elapsed_s := time.monotonic() - begin) < seconds:
            for ready, _ in poller.poll(POLL_MS):
                if ready is live:
                    blocks.take(live.recv_multipart())
                elif frames := replays[ready].message():
                    blocks.take(frames)
            for replay in replays.values():
                replay.ask_again()
            on_progress(elapsed_s)


class _Replay:
    """What one worker still has, asked for again from the first message that did not come.

    SGLang's socket drops what a reader does not take at once, the end mark as well.
    """

    def __init__(self, own: zmq.SyncSocket) -> None:
        self._socket = own
        self._next: int | None = None
        self._complete, self._ended = True, False
        self._ask()

    def message(self) -> list[bytes] | None:
        """The next message; None for the end of a replay, and for what is none."""
        self._heard_s = time.monotonic()
        _, *frames = self._socket.recv_multipart()
        number = int.from_bytes(frames[1], "big", signed=True) if len(frames) == 3 else 0
        if number == END:
            self._ended = self._complete
            if not self._ended:
                self._ask()
            return None
        if self._next is None or number == self._next:
            self._next = number + 1
        elif number > self._next:
            self._complete = False
        return frames

    def ask_again(self) -> None:
        """Ask once more if there was no end and nothing comes."""
        if not self._ended and time.monotonic() - self._heard_s > QUIET_S:
            self._ask()

    def _ask(self) -> None:
        self._complete, self._heard_s = True, time.monotonic()
        self._socket.send_multipart([b"", (self._next or 0).to_bytes(8, "big")])
