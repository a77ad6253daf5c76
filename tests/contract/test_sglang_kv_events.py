"""KV events of the installed SGLang are those that pdcache reads: fields, bytes, hashes, replay."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import msgspec
import pytest

from pdcache.sglang import kv_events
from pdcache.sglang.kv_events import NO_TOKEN, Blocks, Publisher, listen
from pdcache.sglang_cpu import pythonpath_folder, worker_environment
from tests.cluster_tools import free_port

PAGE = 16
FIRST, SECOND, SALTED, KEYED = ([seed * 1000 + i for i in range(48)] for seed in range(4))

# Prints the fields of SGLang's classes. Then one recorder and one publisher of SGLang's own tell
# of prompts whenever a line comes: two turns of a dialogue, and prompts of namespaces.
TELL = """
import json, sys, time
from array import array
from types import SimpleNamespace
from sglang.srt.disaggregation import kv_events
from sglang.srt.managers.schedule_batch import MM_PAD_SHIFT_VALUE
from sglang.srt.mem_cache.events import KVCacheEventRecorder
from sglang.srt.mem_cache.radix_cache import RadixKey

page, port, replay, first, second, salted, keyed = json.loads(sys.argv[1])
names = ["BlockStored", "BlockRemoved", "AllBlocksCleared", "KVEventBatch"]
fields = {name: getattr(kv_events, name).__struct_fields__ for name in names}
config = {"publisher": "zmq", "endpoint": f"tcp://127.0.0.1:{port}", "bind": True,
          "replay_endpoint": f"tcp://127.0.0.1:{replay}"}
publisher = kv_events.EventPublisherFactory.create(json.dumps(config))
recorder = KVCacheEventRecorder(enabled=True, page_size=page)

def node(tokens, parent, **space):
    return SimpleNamespace(
        key=RadixKey(array("q", tokens), **space), parent=parent,
        hash_value=None if tokens else [], event_hash_value=None,
    )

def record(tokens, **space):
    own = node(tokens, node([], None, **space), **space)
    recorder.record_store(own)
    return own

def publish():
    publisher.publish(kv_events.KVEventBatch(ts=time.time(), events=recorder.take()))

turn = record(first)
record(salted, cache_salt="s")
record(keyed, extra_key="k")
publish()
print("READY", json.dumps([fields, MM_PAD_SHIFT_VALUE]), flush=True)
for line in sys.stdin:
    recorder.record_store(node(second, turn), medium=kv_events.StorageMedium.CPU)
    recorder.record_remove(turn)
    recorder.record_all_cleared()
    publish()
"""


@dataclass(frozen=True)
class Sglang:
    """What SGLang's classes have, and a publisher of its own."""

    fields: dict[str, list[str]]
    pad_shift: int
    publisher: Publisher
    stdin: IO[str]


@pytest.fixture(scope="module")
def sglang() -> Iterator[Sglang]:
    """SGLang's recorder and publisher, in a process of its own."""
    ports = [free_port(), free_port()]
    told = json.dumps([PAGE, *ports, FIRST, SECOND, SALTED, KEYED])
    with subprocess.Popen(
        [sys.executable, "-c", TELL, told],
        env=os.environ | worker_environment() | {"PYTHONPATH": str(pythonpath_folder())},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/",
    ) as process:  # fmt: skip
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None
        ready = next(line for line in stdout if line.startswith("READY "))
        fields, pad_shift = json.loads(ready.removeprefix("READY "))
        yield Sglang(fields, pad_shift, Publisher("prefill-0", "127.0.0.1", *ports), stdin)
        stdin.close()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (kv_events._Stored, "BlockStored"),
        (kv_events._Removed, "BlockRemoved"),
        (kv_events._Cleared, "AllBlocksCleared"),
    ],
)
def test_every_field_that_is_read_is_there(sglang: Sglang, ours: Any, theirs: str) -> None:
    assert msgspec.inspect.type_info(ours).tag == theirs
    assert set(ours.__struct_fields__) <= set(sglang.fields[theirs])


def test_a_batch_begins_with_the_fields_that_are_read(sglang: Sglang) -> None:
    ours = kv_events._Batch.__struct_fields__
    assert tuple(sglang.fields["KVEventBatch"][: len(ours)]) == ours


def test_pictures_begin_where_they_are_expected(sglang: Sglang) -> None:
    assert sglang.pad_shift == NO_TOKEN


def test_turns_from_the_replay_and_from_now_are_one_prompt(sglang: Sglang) -> None:
    blocks = Blocks(PAGE)

    def ask(elapsed_s: float) -> None:
        if elapsed_s > 1 and len(blocks) == 6:
            sglang.stdin.write("\n")
            sglang.stdin.flush()

    assert sglang.publisher.answers()
    listen([sglang.publisher], blocks, 3, on_progress=ask)
    # Prompts under a salt are left out; SGLang does not tell of an extra key.
    assert sorted(blocks.chains()) == [tuple(FIRST + SECOND), tuple(KEYED)]
    assert len(blocks) == 9
    assert blocks.unread == 0
