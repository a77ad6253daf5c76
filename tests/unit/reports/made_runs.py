"""Run folders made of nothing: dialogues against a small model of a cluster with three tiers."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pdcache.replay import CachedTokens, CeilingTracker, RequestError, RequestRecord
from pdcache.replay.ceiling import PageChain

PAGE = 64


@dataclass
class Made:
    """A cluster and its load.

    Attributes:
        l1_pages: L1 of each prefill in pages, L2 is twice that.
        write_s: seconds from a request's end until its pages are in L3.
        store_down: span in seconds in which L3 neither takes nor gives pages, and is not seen.
        retokenise: the last tokens of each answer that come back as others.
        flush: L1 and L2 are empty before every turn.
    """

    mode: str = "full_offload"
    sessions: int = 3
    turns: int = 4
    first: int = 300
    question: int = 40
    answer: int = 96
    prefills: int = 2
    threshold: int = 64
    l1_pages: int = 1000
    write_s: float = 0.2
    think_s: float = 2.0
    speed: float = 1000.0
    store_down: tuple[float, float] = (-1.0, -1.0)
    retokenise: int = 0
    flush: bool = False
    reuse: bool = True
    fail: tuple[tuple[int, int], ...] = ()
    seed: int = 0
    wandering: bool = False
    spec: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Cluster:
    load: Made
    held: list[dict[int, None]] = field(default_factory=list)
    stored_at_s: dict[int, float] = field(default_factory=dict)

    def serve(self, prefill: int, pages: Sequence[int], at_s: float) -> CachedTokens:
        load = self.load
        if not load.reuse:
            return CachedTokens()
        memory = self.held[prefill]
        if load.flush:
            memory.clear()
        place = {page: age for age, page in enumerate(reversed(memory))}
        own = leading(pages, lambda page: page in memory)
        device = leading(pages[:own], lambda page: place[page] < load.l1_pages)
        rest = pages[own:]
        up = not load.store_down[0] <= at_s <= load.store_down[1]
        storage = leading(rest, lambda page: self.stored_at_s.get(page, 1e9) <= at_s) if up else 0
        if storage * PAGE < load.threshold:
            storage = 0
        return CachedTokens(device * PAGE, (own - device) * PAGE, storage * PAGE)

    def keep(self, prefill: int, prompt: Sequence[int], answer: Sequence[int], at_s: float) -> None:
        memory = self.held[prefill]
        for page in reversed(prompt):
            memory.pop(page, None)
            memory[page] = None
        while len(memory) > 3 * self.load.l1_pages:
            del memory[next(iter(memory))]
        if self.load.store_down[0] <= at_s <= self.load.store_down[1]:
            return
        written = [*prompt, *answer] if self.load.mode == "full_offload" else prompt
        for page in written:
            self.stored_at_s.setdefault(page, at_s + self.load.write_s)


def make_run(folder: Path, load: Made | None = None, **changes: Any) -> Path:
    """Write a whole run folder; its numbers follow from the seed."""
    load = load or Made(**changes)
    rng = random.Random(load.seed)
    cluster = _Cluster(load, [{} for _ in range(load.prefills)])
    tracker = CeilingTracker(
        PAGE, "full_offload" if load.mode == "full_offload" else "prefill_only"
    )
    records: list[RequestRecord] = []
    pages_lines = []
    pending: list[tuple[float, int, dict[str, Any]]] = []
    dialogues = [
        {"at_s": 0.3 * i, "turn": 1, "prompt": tokens(rng, load.first)}
        for i in range(load.sessions)
    ]
    for index in range(load.sessions * load.turns * 2):
        del index
        active = [(d["at_s"], i) for i, d in enumerate(dialogues) if d["turn"] <= load.turns]
        if not active:
            break
        at_s, who = min(active)
        for ready in sorted(item for item in pending if item[0] <= at_s):
            finish(cluster, tracker, ready)
            pending.remove(ready)
        dialogue = dialogues[who]
        turn, prompt = dialogue["turn"], dialogue["prompt"]
        prefill = (who + turn if load.wandering else who) % load.prefills
        chain = list(PageChain(PAGE, prompt).ids)
        cached = cluster.serve(prefill, chain[: (len(prompt) - 1) // PAGE], at_s)
        answer = tokens(rng, load.answer)
        ttft = 0.05 + (len(prompt) - cached.total) / load.speed * rng.uniform(0.9, 1.2)
        gaps = tuple(rng.uniform(0.008, 0.014) for _ in answer[1:])
        latency = ttft + sum(gaps)
        failed = (who, turn) in load.fail
        record = RequestRecord(
            session=f"s{who + 1}", turn=turn, prompt_tokens=len(prompt),
            output_ids=() if failed else tuple(answer),
            cached=CachedTokens() if failed else cached,
            ceiling_tokens=tracker.at_send(chain, len(prompt)), sent_s=at_s,
            send_lag_s=rng.uniform(0, 0.002), ttft_s=None if failed else ttft,
            gaps_s=() if failed else gaps, latency_s=latency,
            error=RequestError("http_503", "no worker") if failed else None,
            worker="http://127.0.0.1:30001", prefill=f"prefill-{prefill}",
            finished_s=at_s + latency, expected_output_tokens=load.answer,
        )  # fmt: skip
        records.append(record)
        dialogue["turn"] = load.turns + 1 if failed else turn + 1
        if failed:
            continue
        whole = list(PageChain(PAGE, [*prompt, *answer[:-1]]).ids)
        pages_lines.append({
            "session": record.session, "turn": turn, "prompt_pages": chain,
            "answer_pages": whole[len(chain):], "prompt_tokens": len(prompt),
            "output_tokens": len(answer),
        })  # fmt: skip
        pending.append((record.finished_s, who, {
            "prefill": prefill, "prompt": chain, "answer": whole[len(chain):],
        }))  # fmt: skip
        kept = answer[: len(answer) - load.retokenise] + tokens(rng, load.retokenise)
        dialogue["prompt"] = [*prompt, *kept, *tokens(rng, load.question)]
        dialogue["at_s"] = record.finished_s + load.think_s
    write_folder(folder, load, records, pages_lines)
    return folder


def finish(cluster: _Cluster, tracker: CeilingTracker, ready: tuple[float, int, Any]) -> None:
    """A request has ended: its pages come in."""
    at_s, _, made = ready
    cluster.keep(made["prefill"], made["prompt"], made["answer"], at_s)
    tracker.finished(made["prompt"], made["answer"])


def write_folder(
    folder: Path, load: Made, records: list[RequestRecord], pages: list[dict[str, Any]]
) -> None:
    """Write the four files."""
    folder.mkdir(parents=True, exist_ok=True)
    records = sorted(records, key=lambda record: record.finished_s)
    wall = max(record.finished_s for record in records)
    write_lines(folder / "requests.jsonl", [record.to_json() for record in records])
    write_lines(folder / "pages.jsonl", pages)
    write_lines(folder / "timeline.jsonl", list(timeline(load, records, wall)))
    tokens_of_l1 = load.l1_pages * PAGE
    environment = {
        "schema": 1, "target": "http://127.0.0.1:8000", "mode": load.mode, "page_size": PAGE,
        "started_at": "2025-01-01T10:00:00+00:00",
        "spec": {"workload": "sessions.jsonl", "requests_planned": load.sessions * load.turns,
                 "concurrency": load.sessions, "reuse": load.reuse, **load.spec},
        "versions": {"pdcache": "0.1.0", "sglang": "0.5.23", "mooncake": "0.3.11"},
        "topology": {"mode": load.mode, "hicache": {"page_size": PAGE}},
        "plan": {"name": load.mode.replace("_", "-"), "processes": [
            {"name": "prefill-0", "role": "prefill", "env": {"OMP_NUM_THREADS": "1"},
             "argv": ["python", "-m", "sglang.launch_server", "--page-size", "64"]},
            {"name": "decode-0", "role": "decode",
             "argv": ["python", "-m", "sglang.launch_server", "--base-gpu-id", "1"]},
        ]},
        "capacity_tokens": {
            "device": tokens_of_l1, "host": 2 * tokens_of_l1, "storage": 90_000,
        },
        "prefills": load.prefills, "prefetch_threshold": load.threshold, "wall_s": wall,
        "complete": True,
    }  # fmt: skip
    (folder / "environment.json").write_text(json.dumps(environment))


def timeline(load: Made, records: list[RequestRecord], wall: float) -> Iterator[dict[str, Any]]:
    """A sample of every process each half second."""
    ends = [0.5 * i for i in range(int(wall / 0.5) + 1)] + [wall]
    for at_s in ends:
        # New prompt tokens go to L2 and to L3 when the first token is there.
        done = [r for r in records if r.sent_s + (r.ttft_s or r.latency_s) <= at_s and not r.error]
        fresh = sum((r.prompt_tokens - r.cached.total) // PAGE * PAGE for r in done)
        waiting = sum(r.sent_s <= at_s < r.sent_s + (r.ttft_s or r.latency_s) for r in records)
        running = sum(r.sent_s <= at_s < r.finished_s for r in records) - waiting
        for i in range(load.prefills):
            yield {"at_s": at_s, "worker": f"prefill-{i}", "role": "prefill", "values": {
                "sglang:num_queue_reqs": waiting / load.prefills,
                "sglang:hicache_backup_tokens_total": fresh / load.prefills,
                "sglang:backuped_tokens_total": fresh / load.prefills,
            }}  # fmt: skip
        yield {"at_s": at_s, "worker": "decode-0", "role": "decode", "values": {
            "sglang:num_running_reqs": running,
            "sglang:kv_transfer_total_mb_sum": sum(r.prompt_tokens for r in done) * 0.046,
        }}  # fmt: skip
        if not load.store_down[0] <= at_s <= load.store_down[1]:
            yield {"at_s": at_s, "worker": "store-master", "role": "store", "values": {
                "master_key_count": fresh // PAGE,
                "master_allocated_bytes": fresh * 46080,
                "master_evicted_key_count": 0,
            }}  # fmt: skip


def tokens(rng: random.Random, count: int) -> list[int]:
    """Random tokens."""
    return [rng.randrange(1000) for _ in range(count)]


def leading(pages: Sequence[int], held: Any) -> int:
    """How many pages from the start are held."""
    for count, page in enumerate(pages):
        if not held(page):
            return count
    return len(pages)


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    """JSON lines."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
