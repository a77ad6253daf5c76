"""How many requests does the replay's client manage per second of CPU, against aiperf 0.13?

    python scripts/bench/client_vs_aiperf.py [--rounds 2] [--sessions 500] [--concurrency 64]

Peer: aiperf 0.13.0 (NVIDIA), its defaults, in a virtual environment of its own. Both clients send
the same multi-turn dialogues to the chat endpoint of `streaming_server.py`, which runs in a process
of its own on loopback; they take turns, so that what else the machine does hits both.
Limit: at least 1.5 times aiperf's requests per CPU-second. Counted is the CPU time of the client's
process tree while requests run, from the first answer to the last: the seconds that each needs to
start and to write its report are shown apart. Writes build/client_vs_aiperf.json; exit 1 below the
limit, or when a request failed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.request import urlopen

import psutil
from aiperf_run import PACKAGE, ROOT, command, results

from pdcache.replay import Session, dump_sessions, generate_chat, read_run

LIMIT = 1.5
MODEL = "tiny-random"
SERVER = Path(__file__).with_name("streaming_server.py")


@dataclass(frozen=True)
class Cost:
    """One run: requests, seconds and CPU-seconds of the load, CPU-seconds of the whole process."""

    client: str
    requests: int
    errors: int
    load_s: float
    load_cpu_s: float
    whole_cpu_s: float
    peak_rss_mb: float
    send_lag_p99_s: float | None

    @property
    def per_cpu_s(self) -> float:
        """Requests per CPU-second while requests run."""
        return self.requests / self.load_cpu_s


class Tree:
    """CPU time and memory of a process and all its descendants, the ended ones included."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._seen: dict[int, float] = {}
        self.peak_rss = 0

    def cpu_s(self) -> float:
        """Seconds of all that were seen so far."""
        rss = 0
        try:
            for own in [self._root, *self._root.children(recursive=True)]:
                try:
                    times = own.cpu_times()
                    self._seen[own.pid] = times.user + times.system
                    rss += own.memory_info().rss
                except psutil.Error:
                    continue
        except psutil.Error:
            pass
        self.peak_rss = max(self.peak_rss, rss)
        return sum(self._seen.values())


def main() -> int:
    """Measure, print, write; 0 when the limit is kept."""
    parser = argparse.ArgumentParser(description="Requests per CPU-second, ours against aiperf's.")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--sessions", type=int, default=500)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "client_vs_aiperf.json")
    given = parser.parse_args()
    sessions = generate_chat(
        given.sessions, given.turns, first_words=60, question_words=20,
        answer_tokens=given.tokens, think_s=0.0,
    )  # fmt: skip
    costs: list[Cost] = []
    with tempfile.TemporaryDirectory() as temp:
        for number in range(given.rounds):
            for client in ("pdcache", "aiperf"):
                folder = Path(temp) / f"{client}-{number}"
                costs.append(measure(client, sessions, given.concurrency, folder))
                print(json.dumps(shown(costs[-1])), flush=True)
    by_client = {
        client: statistics.median(own.per_cpu_s for own in costs if own.client == client)
        for client in ("pdcache", "aiperf")
    }
    ratio = by_client["pdcache"] / by_client["aiperf"]
    load = ("sessions", "turns", "tokens", "concurrency")
    result = {
        "schema": 1, "question": (__doc__ or "").splitlines()[0], "peer": PACKAGE, "limit": LIMIT,
        "load": {key: getattr(given, key) for key in load},
        "requests_per_cpu_s": by_client, "ratio": ratio,
        "runs": [shown(own) for own in costs],
        "kept": ratio >= LIMIT and not any(own.errors for own in costs),
    }  # fmt: skip
    given.out.parent.mkdir(exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{by_client['pdcache']:.0f} against {by_client['aiperf']:.0f} requests per CPU-second: "
          f"{ratio:.2f} times, limit {LIMIT}")  # fmt: skip
    return 0 if result["kept"] else 1


def shown(cost: Cost) -> dict[str, object]:
    """A run as data."""
    return {**asdict(cost), "requests_per_cpu_s": cost.per_cpu_s}


def measure(client: str, sessions: list[Session], concurrency: int, folder: Path) -> Cost:
    """One run of one client against a server of its own."""
    folder.mkdir()
    requests = sum(len(own.turns) for own in sessions)
    words = [sys.executable, str(SERVER), "--ttft-ms", "5", "--itl-ms", "1"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            words, environment = _ours(url, sessions, concurrency, folder)
            if client == "aiperf":
                words, environment = command(
                    url, sessions, folder, model=MODEL, served_name="trivial",
                    concurrency=concurrency, headers={}, extra={},
                )  # fmt: skip
            with (folder / "log").open("wb") as log:
                process = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
                load_s, load_cpu_s, tree = _watch(process, url, requests)
            if process.returncode != 0:
                raise SystemExit((folder / "log").read_text()[-3000:])
        finally:
            server.terminate()
    lag_s, errors = None, 0
    if client == "pdcache":
        run = read_run(folder / "run")
        lags = sorted(own.send_lag_s for own in run.records)
        lag_s, errors = lags[int(0.99 * (len(lags) - 1))], len(run.failed)
    else:
        errors = results(folder).errors
    return Cost(
        client, requests, errors, load_s, load_cpu_s, tree.cpu_s(), tree.peak_rss / 1e6, lag_s
    )


def _ours(
    url: str, sessions: list[Session], concurrency: int, folder: Path
) -> tuple[list[str], dict[str, str]]:
    workload = folder / "workload.jsonl"
    dump_sessions(sessions, workload)
    words = [
        sys.executable, "-m", "pdcache.cli.main", "replay", str(workload), "--target", url,
        "--model", MODEL, "--dialect", "openai-chat", "--concurrency", str(concurrency),
        "--out", str(folder / "run"),
    ]  # fmt: skip
    return words, {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def _watch(process: subprocess.Popen[bytes], url: str, requests: int) -> tuple[float, float, Tree]:
    """Seconds and CPU-seconds from the first answer to the last, until the process has ended."""
    tree = Tree(process.pid)
    begun: tuple[float, float] | None = None
    ended: tuple[float, float] | None = None
    while process.poll() is None:
        with urlopen(f"{url}/stats", timeout=10) as page:
            answered = json.load(page)["answered"]
        now = (time.monotonic(), tree.cpu_s())
        begun = begun or (now if answered else None)
        ended = ended or (now if answered >= requests else None)
        time.sleep(0.05)
    if begun is None or ended is None:
        return 0.0, float("nan"), tree
    return ended[0] - begun[0], ended[1] - begun[1], tree


if __name__ == "__main__":
    sys.exit(main())
