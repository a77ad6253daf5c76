"""Does an independent client measure the same as `pdcache replay`?

    python scripts/replay_agrees_with_aiperf.py --target full-offload
    python scripts/replay_agrees_with_aiperf.py --target http://127.0.0.1:9000 --model tiny-random

Peer: aiperf 0.13.0 (NVIDIA) in a virtual environment of its own. Both clients send the same
dialogues to the same chat endpoint with the same concurrency, in turn; a fresh `cache_salt` for
each run gives it caches as empty as the other's.
Limit: the medians of TTFT and TPOT differ by at most 5 %, and the cached and prompt tokens of each
round are the same in total. Writes build/replay_agrees_with_aiperf.json; exit 1 otherwise.

On the servers' own few cores a client slows what it measures. Both run at `--nice` 19, as does the
scheduling group that Linux makes of a session (sched(7), autogroup), outside of which a process's
own niceness says nothing; and aiperf gets a rate, without which it takes a core (TTFT by a third).

The salt must reach the engine: a gateway that drops it gives the second client the first one's
cache, which shows as more cached tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "bench"))

from aiperf_run import PACKAGE, ROOT, Measured, command, results

from pdcache.cluster.record import the_record
from pdcache.replay import (
    Options,
    ReplayResult,
    Session,
    Target,
    cluster_target,
    dump_sessions,
    generate_chat,
    launch,
    read_run,
    server_target,
)

LIMIT = 0.05
RATE = 20.0
"""Far more turns a second than there are: it is there to let aiperf sleep."""


def main() -> int:
    """Measure, print, write; 0 when the clients agree."""
    parser = argparse.ArgumentParser(description="The same load by pdcache replay and by aiperf.")
    parser.add_argument("--target", required=True, help="cluster name, or http://host:port")
    parser.add_argument("--model", help="of a target given by URL")
    parser.add_argument("--served-name", help="of a target given by URL; --model if unset")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sessions", type=int, default=4)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=64, help="of an answer")
    parser.add_argument("--words", type=int, default=300, help="of a first question")
    parser.add_argument("--think", type=float, default=2.0, help="seconds between turns")
    parser.add_argument("--concurrency", type=int, default=1, help="sessions at a time")
    parser.add_argument("--out", type=Path, default=ROOT / "build/replay_agrees_with_aiperf.json")
    parser.add_argument("--nice", type=int, default=19, help="how far both clients step back")
    given = parser.parse_args()
    step_back(given.nice)
    target = (
        server_target(given.target, given.model, served_name=given.served_name)
        if "://" in given.target
        else cluster_target(the_record(given.target))
    )
    sessions = generate_chat(
        given.sessions, given.turns, first_words=given.words, answer_tokens=given.tokens,
        think_s=given.think,
    )  # fmt: skip
    rounds: list[dict[str, Measured]] = []
    with tempfile.TemporaryDirectory() as temp:
        for number in range(given.rounds):
            clients = ("pdcache", "aiperf") if number % 2 == 0 else ("aiperf", "pdcache")
            rounds.append({})
            for client in clients:
                folder = Path(temp) / f"{client}-{number}"
                folder.mkdir()
                run = ours if client == "pdcache" else theirs
                rounds[-1][client] = run(target, sessions, given.concurrency, folder)
                print(client, json.dumps(medians([rounds[-1][client]])), flush=True)
    verdict = compared(rounds)
    load = ("rounds", "sessions", "turns", "tokens", "words", "think", "concurrency")
    result = {
        "schema": 1, "question": (__doc__ or "").splitlines()[0], "peer": PACKAGE,
        "target": target.url, "load": {key: getattr(given, key) for key in load},
        "limit": LIMIT, **verdict,
    }  # fmt: skip
    given.out.parent.mkdir(exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(verdict, indent=2))
    return 0 if verdict["agrees"] else 1


def step_back(nice: int) -> None:
    """Give way to all other processes; the session's group does so until this one ends."""
    os.nice(nice)
    group = Path("/proc/self/autogroup")
    if not group.exists():
        return
    before = group.read_text().split()[-1]
    group.write_text(str(nice))
    atexit.register(group.write_text, before)


def ours(target: Target, sessions: list[Session], concurrency: int, folder: Path) -> Measured:
    """One run of `pdcache replay`."""
    workload = folder / "workload.jsonl"
    dump_sessions(sessions, workload)
    options = Options(
        workload, dialect="openai-chat", concurrency=concurrency, body={"cache_salt": _salt()}
    )
    asyncio.run(launch(options, target, folder / "run"))
    return of_run(read_run(folder / "run"))


def of_run(run: ReplayResult) -> Measured:
    """What our records say."""
    done = run.completed
    return Measured(
        ttfts_s=[own.ttft_s for own in done if own.ttft_s is not None],
        tpots_s=[own.tpot_s for own in done if own.tpot_s is not None],
        cached_tokens=sum(own.cached.total for own in done),
        prompt_tokens=sum(own.prompt_tokens for own in done),
        errors=len(run.failed),
    )


def theirs(target: Target, sessions: list[Session], concurrency: int, folder: Path) -> Measured:
    """One run of aiperf."""
    words, environment = command(
        target.url, sessions, folder, model=target.model, served_name=target.served_name,
        concurrency=concurrency, headers=target.headers, extra={"cache_salt": _salt()},
        rate=RATE,
    )  # fmt: skip
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit((done.stdout + done.stderr)[-3000:])
    return results(folder)


def compared(rounds: Sequence[dict[str, Measured]]) -> dict[str, object]:
    """Medians over all rounds, how far they are apart, and whether totals are the same."""
    by_client = {client: medians([own[client] for own in rounds]) for client in rounds[0]}
    apart = {
        name: abs(by_client["pdcache"][name] / by_client["aiperf"][name] - 1)
        for name in ("ttft_p50_s", "tpot_p50_s")
    }
    same = all(
        own["pdcache"].cached_tokens == own["aiperf"].cached_tokens
        and own["pdcache"].prompt_tokens == own["aiperf"].prompt_tokens
        for own in rounds
    )
    errors = sum(measured.errors for own in rounds for measured in own.values())
    return {
        "clients": by_client, "apart": apart, "same_tokens": same, "errors": errors,
        "agrees": same and not errors and max(apart.values()) <= LIMIT,
    }  # fmt: skip


def medians(runs: Sequence[Measured]) -> dict[str, float]:
    """Medians and totals over runs of one client."""
    return {
        "requests": sum(len(own.ttfts_s) for own in runs),
        "ttft_p50_s": statistics.median(value for own in runs for value in own.ttfts_s),
        "tpot_p50_s": statistics.median(value for own in runs for value in own.tpots_s),
        "cached_tokens": sum(own.cached_tokens for own in runs),
        "prompt_tokens": sum(own.prompt_tokens for own in runs),
    }


def _salt() -> str:
    return f"agrees-{secrets.token_hex(8)}"


if __name__ == "__main__":
    sys.exit(main())
