"""Proves reuse for every storage backend, mode and layout here, and writes docs/matrix.md.

Each cell is a real cluster: one prefill and one decode worker of the tiny model, brought up, proved
and taken down by the command line. A cell that is done is kept in the state file, so a run that was
cut short goes on; --again begins anew.

Usage: python scripts/matrix.py [--only TEXT] [--again]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pdcache import __version__
from pdcache.plan.lock import versions

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "matrix.md"
STATE = ROOT / "build" / "matrix.json"
MODES = ("prefill_only", "full_offload")
PAIRS = {
    "layer_first": "direct",
    "page_first": "kernel",
    "page_first_direct": "direct",
    "page_head": "kernel",
}
"""Each layout with an io backend that copies it."""


def laid(*sets: str) -> tuple[str, ...]:
    """Words of the command line that lay values over a topology."""
    return tuple(word for one in sets for word in ("--set", one))


@dataclass(frozen=True)
class Backend:
    """A topology, the layouts its backend serves, and what is laid over the file."""

    label: str
    file: str
    layouts: tuple[str, ...]
    sets: tuple[str, ...] = ()
    folder_key: str | None = None


BACKENDS = (
    Backend("mooncake", "full_offload", ("page_first", "page_first_direct", "page_head")),
    Backend("mooncake, TP 2 on two nodes", "full_offload", ("page_first_direct",),
            (*laid("prefill.tp=2", "prefill.nodes=2", "decode.tp=2"), "--skip-check", "nodes")),
    Backend("mooncake, prefill TP 2, decode TP 1", "full_offload", ("page_head",),
            laid("prefill.tp=2", "decode.tp=1", "store.tp_lcm_size=2")),
    Backend("mooncake + SSD", "mooncake_ssd", ("page_first", "page_first_direct", "page_head"),
            folder_key="store.ssd.path"),
    Backend("mooncake HA", "mooncake_ha", ("page_first", "page_first_direct", "page_head")),
    Backend("file", "file_backend", tuple(PAIRS), folder_key="store.path"),
    Backend("hf3fs (mock client)", "hf3fs_mock",
            ("layer_first", "page_first", "page_first_direct"), folder_key="store.path"),
    Backend("dynamic, generic", "custom_backend", tuple(PAIRS), folder_key="store.extra.folder"),
    Backend("dynamic, interface_v1", "custom_backend", tuple(PAIRS),
            laid("store.class_name=PageFilesInPlace", "store.interface_v1=true"),
            folder_key="store.extra.folder"),
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One combination and how it went."""

    backend: str
    mode: str
    layout: str
    io_backend: str
    proved: bool
    canaries: tuple[tuple[str, int, int, bool], ...]
    seconds: float
    problem: str = ""

    @property
    def name(self) -> str:
        """What tells it from all other cells."""
        return f"{self.backend} / {self.mode} / {self.layout}"


def main() -> int:
    """Run the cells that are missing; exit 1 when one is not proved."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="run only cells whose name holds this text")
    parser.add_argument("--again", action="store_true", help="forget the cells that are done")
    options = parser.parse_args()
    done = {} if options.again else load()
    wanted = [
        (backend, mode, layout) for backend in BACKENDS for mode in MODES
        for layout in backend.layouts
    ]  # fmt: skip
    for number, (backend, mode, layout) in enumerate(wanted, 1):
        name = f"{backend.label} / {mode} / {layout}"
        if (name in done and done[name].proved) or options.only not in name:
            continue
        print(f"[{number}/{len(wanted)}] {name} ... ", end="", flush=True)
        cell = run(backend, mode, layout)
        print(f"{'proved' if cell.proved else 'NOT PROVED'} in {cell.seconds:.0f} s", flush=True)
        if cell.problem:
            print(f"    {cell.problem}", flush=True)
        done[name] = cell
        save(done)
    order = [f"{backend.label} / {mode} / {layout}" for backend, mode, layout in wanted]
    cells = [done[name] for name in order if name in done]
    if len(cells) == len(order):
        PAGE.write_text(page(cells))
        print(f"written: {PAGE.relative_to(ROOT)}")
    failed = [cell.name for cell in cells if not cell.proved]
    print(f"{len(cells) - len(failed)} of {len(order)} cells proved.")
    return 1 if failed else 0


def run(backend: Backend, mode: str, layout: str) -> Cell:
    """One cluster from up to down."""
    io_backend = PAIRS[layout]
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pdcache-matrix-") as folder:
        sets = [
            f"mode={mode}", "model.path=tiny-random", "page_size=16", "prefill.workers=1",
            f"hicache.layout={layout}", f"hicache.io_backend={io_backend}",
            f"gateway.port={free_port()}",
        ]  # fmt: skip
        if backend.folder_key is not None:
            sets.append(f"{backend.folder_key}={folder}/pages")
        words = [word for one in sets for word in ("--set", one)]
        env = os.environ | {"PDCACHE_HOME": f"{folder}/home", "OMP_NUM_THREADS": "1"}
        command = [pdcache(), "up", f"topologies/{backend.file}.yaml", *words, *backend.sets]
        try:
            up = subprocess.run(
                [*command, "--json"], env=env, cwd=ROOT, capture_output=True, text=True
            )
        finally:
            down = subprocess.run(
                [pdcache(), "down", "--all"], env=env, cwd=ROOT, capture_output=True, text=True
            )
    result = json.loads(up.stdout) if up.returncode == 0 else {}
    problem = "" if up.returncode == 0 else up.stderr.strip()[-500:]
    if down.returncode != 0:
        problem += f" down: {down.stderr.strip()[-200:]}"
    canaries: list[dict[str, Any]] = result.get("proof", {}).get("canaries", [])
    return Cell(
        backend.label, mode, layout, io_backend,
        proved=bool(canaries) and all(one["proved"] for one in canaries) and not problem,
        canaries=tuple(
            (one["name"], one["cached_tokens"]["storage"], one["expected_storage_tokens"],
             one["tokens_equal"])
            for one in canaries
        ),
        seconds=round(time.monotonic() - begin, 1), problem=problem,
    )  # fmt: skip


def page(cells: list[Cell]) -> str:
    """docs/matrix.md."""
    lines = [
        "<!-- Written by `make matrix`. -->\n",
        "# What was proved: storage backend x mode x layout\n",
        "Each row is a real cluster without a GPU: SGLang prefill and decode, store, gateway. `up` "
        "proved it and `down` left nothing. The numbers are tokens read from L3 of those "
        "expected, canary by canary (see [verifying](verifying.md)); in every canary the tokens "
        "equal those computed without reuse. One run.\n",
        "Versions: " + ", ".join(f"{name} {text}" for name, text in versions().items()) + ".\n",
        "| backend | mode | layout | io | proved | same prompt after a flush | short answer, hot "
        "prompt | prompt and answer after a flush |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for cell in cells:
        seen = {name: f"{storage}/{expected}" for name, storage, expected, _ in cell.canaries}
        columns = (
            "same prompt after a flush",
            "short answer on a hot prompt",
            "prompt and answer after a flush",
        )
        numbers = " | ".join(seen.get(name, "") for name in columns)
        verdict = "yes" if cell.proved else "**no**"
        lines.append(
            f"| {cell.backend} | {cell.mode} | {cell.layout} | {cell.io_backend} | {verdict} | "
            f"{numbers} |"
        )
    lines.append(
        "\nNot in the table, because SGLang has no such pair: Mooncake with layer_first (becomes "
        "page_first_direct or page_first), hf3fs with page_head (the server dies at start; rule "
        "`backend-layout`)."
    )
    return "\n".join(lines) + "\n"


def load() -> dict[str, Cell]:
    """Cells of an earlier run of this version."""
    if not STATE.is_file():
        return {}
    data = json.loads(STATE.read_text())
    if data["version"] != __version__:
        return {}
    return {name: Cell(**cell) for name, cell in data["cells"].items()}


def save(done: dict[str, Cell]) -> None:
    """Keep what is done."""
    STATE.parent.mkdir(exist_ok=True)
    cells = {name: asdict(cell) for name, cell in done.items()}
    STATE.write_text(json.dumps({"version": __version__, "cells": cells}, indent=1))


def pdcache() -> str:
    """The command beside this interpreter."""
    beside = Path(sys.executable).with_name("pdcache")
    return str(beside) if beside.is_file() else shutil.which("pdcache") or "pdcache"


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
