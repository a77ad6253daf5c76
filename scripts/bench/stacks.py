"""Clusters for benchmarks: by `pdcache up`, and the same processes by hand, from `plan --shell`."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from pdcache.sglang_cpu import STOCK_ENV
from pdcache.topology.facts import port_is_free

ROOT = Path(__file__).resolve().parents[2]
PDCACHE = str(Path(sys.executable).with_name("pdcache"))
TOPOLOGY = "topologies/full_offload.yaml"
MODEL = "smollm2-135m"
UP_LIMIT_S = 600.0
STOCK = (
    "model.dtype=bfloat16",
    *(
        f"{role}.{key}"
        for role in ("prefill", "decode")
        for key in ("args.attention_backend=torch_native", "env.SGLANG_EXTERNAL_MODEL_PACKAGE=''")
    ),
)


@dataclass(frozen=True)
class Stack:
    """A cluster that answers.

    Attributes:
        name: who started it.
        url: of its gateway.
        prefills: URLs of its prefill servers.
        admin_key: of its servers.
        store_metrics: URL of the store's metrics.
        started_in_s: seconds from the command to its last word, that the cluster is up.
    """

    name: str
    url: str
    prefills: tuple[str, ...]
    admin_key: str
    store_metrics: str
    started_in_s: float

    def flush(self) -> None:
        """Empty L1 and L2 of all prefill servers, once they are idle."""
        headers = {"Authorization": f"Bearer {self.admin_key}"}
        for url in self.prefills:
            end = time.monotonic() + 60
            while httpx.post(f"{url}/flush_cache", headers=headers).status_code != 200:
                if time.monotonic() > end:
                    raise RuntimeError(f"{url} is not idle within 60 s")
                time.sleep(0.1)

    def keys(self) -> int:
        """Keys in the store."""
        text = httpx.get(self.store_metrics).text
        return int(re.search(r"^master_key_count (\d+)", text, re.MULTILINE)[1])


@contextlib.contextmanager
def by_pdcache(home: Path, *sets: str, verify: bool = False) -> Iterator[Stack]:
    """A cluster that `pdcache up` starts, and `pdcache down` ends."""
    port = free_port()
    words = [*_laid(sets, port), *(() if verify else ("--no-verify",))]
    try:
        begin = time.monotonic()
        _pdcache(home, "up", TOPOLOGY, *words)
        took_s = time.monotonic() - begin
        yield _running("pdcache", home, _url(port), took_s)
    finally:
        _pdcache(home, "down", "--all")


def stock_by_hand(home: Path, *sets: str) -> contextlib.AbstractContextManager[Stack]:
    """SGLang as it is, by hand: its own layers and scheduler, bfloat16, spawned children.

    What the CPU lane needs to run at all is left: copies between tiers, memory that is not pinned.
    """
    return by_hand(home, *sets, *STOCK, env={STOCK_ENV: "1"}, name="stock by hand")


@contextlib.contextmanager
def by_hand(
    home: Path, *sets: str, env: Mapping[str, str] | None = None, name: str = "by hand"
) -> Iterator[Stack]:
    """The processes of the same plan, started by the script of `pdcache plan --shell`.

    Args:
        env: laid over the environment of every process, unless the plan sets it.
    """
    port = free_port()
    words = _laid(sets, port)
    home.mkdir(parents=True, exist_ok=True)
    script = home / "run.sh"
    script.write_text(_pdcache(home, "plan", TOPOLOGY, *words, "--shell"))
    logs = {"LOGS": str(home / "logs")}
    (home / "logs").mkdir(exist_ok=True)
    begin = time.monotonic()
    running = subprocess.Popen(
        ["bash", str(script)], stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env=environment(home) | logs | (env or {}), start_new_session=True,
    )  # fmt: skip
    try:
        assert running.stdout is not None
        for line in running.stdout:
            if line.startswith("UP "):
                break
        else:
            raise RuntimeError(f"{script} did not come up")
        took_s = time.monotonic() - begin
        yield _planned(name, home, words, _url(port), took_s)
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(60)


@contextlib.contextmanager
def orchestration_stopped(home: Path) -> Iterator[None]:
    """Ray and the controller of a cluster are stopped for a with block; its servers go on."""
    own = {one: _supervisor(one) for one in psutil.process_iter() if _belongs(one, home)}
    head = next(of for one, of in own.items() if one.name() == "raylet")
    found = [one for one, of in own.items() if of == head and not _is_supervisor(one)]
    try:
        for one in found:
            one.suspend()
        yield
    finally:
        for one in found:
            one.resume()


def free_port() -> int:
    """A port that nobody has, below those that Linux gives to connections meanwhile."""
    while not port_is_free(port := random.randrange(23_000, 32_000)):
        pass
    return port


def _running(name: str, home: Path, url: str, took_s: float) -> Stack:
    """What runs may have other ports than a plan that is made now."""
    workers = {
        one["name"]: one for one in json.loads(_pdcache(home, "status", "--json"))["workers"]
    }
    prefills = [one for one in workers.values() if one["role"] == "prefill"]
    keys_file = psutil.Process(prefills[0]["pid"]).environ()["PDCACHE_KEYS_FILE"]
    master = psutil.Process(workers["store-master"]["pid"]).cmdline()
    (port,) = (word.split("=")[1] for word in master if word.startswith("--metrics_port="))
    urls = tuple(one["url"] for one in prefills)
    admin = json.loads(Path(keys_file).read_text())["admin"]
    return Stack(name, url, urls, admin, f"{_url(int(port))}/metrics", took_s)


def _planned(name: str, home: Path, words: Sequence[str], url: str, took_s: float) -> Stack:
    plan: dict[str, Any] = json.loads(_pdcache(home, "plan", TOPOLOGY, *words[:-2], "--json"))
    keys = json.loads(Path(plan["processes"][-1]["env"]["PDCACHE_KEYS_FILE"]).read_text())
    manifest = json.loads(Path(plan["manifest"]).read_text())
    prefills = [row["url"] for row in manifest["workers"] if row["worker_type"] == "prefill"]
    master = next(one for one in plan["processes"] if one["name"] == "store-master")
    metrics = f"{_url(master['ports']['metrics'])}/metrics"
    return Stack(name, url, tuple(prefills), keys["admin"], metrics, took_s)


def _belongs(process: psutil.Process, home: Path) -> bool:
    try:
        return process.environ().get("PDCACHE_HOME") == str(home)
    except psutil.Error:
        return False


def _supervisor(process: psutil.Process) -> psutil.Process | None:
    return next(filter(_is_supervisor, process.parents()), None)


def _is_supervisor(process: psutil.Process) -> bool:
    # A fork of a preloaded server has its command line as one word.
    return "supervisor.py " in " ".join(process.cmdline())


def _laid(sets: Sequence[str], port: int) -> list[str]:
    # The port last, so that a plan of the same files can be made while it is in use.
    return [word for one in (*sets, f"gateway.port={port}") for word in ("--set", one)]


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "PDCACHE_HOME": str(home), "OMP_NUM_THREADS": "1"}


def _pdcache(home: Path, *words: str) -> str:
    done = subprocess.run(
        [PDCACHE, *words], capture_output=True, text=True, cwd=ROOT, env=environment(home),
        timeout=UP_LIMIT_S,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"pdcache {' '.join(words)}: {done.stdout}{done.stderr}")
    return done.stdout
