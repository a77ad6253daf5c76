"""``doctor``: what this machine has and lacks, each with its remedy."""

from __future__ import annotations

import ctypes.util
import importlib.metadata
import importlib.util
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import typer
from rich.table import Table

from pdcache.cli.gather import not_installed
from pdcache.cli.options import Json
from pdcache.cli.output import out, print_json
from pdcache.store.registry import BACKENDS
from pdcache.topology.facts import GIB, local_node, port_is_free

PACKAGES = {
    "ray": "pip install ray",
    "torch": "make setup (CPU lane), or pip install 'pdcache[sglang]' on a GPU machine",
    "sglang": "make setup (CPU lane), or pip install 'pdcache[sglang]' on a GPU machine",
    "mooncake": "pip install mooncake-transfer-engine (-non-cuda without CUDA)",
    "smg": "pip install smg==1.13.0",
}
LIBRARIES = {
    "ibverbs": "apt-get install libibverbs1",
    "numa": "apt-get install libnuma1",
    "curl": "apt-get install libcurl4",
}
MIN_MEMORY_BYTES = 14 * GIB
MIN_SHM_BYTES = 200 << 20


@dataclass(frozen=True)
class Symptom:
    """One thing looked at. ``needed`` things that are missing make ``doctor`` exit 1."""

    what: str
    ok: bool
    found: str
    remedy: str
    needed: bool = True


def examine() -> list[Symptom]:
    """Look at interpreter, packages, libraries, devices, memory and the default port."""
    symptoms = [_python()]
    symptoms += [_package(name, remedy) for name, remedy in PACKAGES.items()]
    symptoms += [_library(name, remedy) for name, remedy in LIBRARIES.items()]
    compiler = shutil.which("g++")
    symptoms.append(
        Symptom(
            "g++",
            compiler is not None,
            compiler or "missing",
            "apt-get install g++ libssl-dev (SGLang builds its page hash once)",
        )
    )
    node = local_node()
    symptoms.append(
        Symptom(
            "memory",
            node.memory_bytes >= MIN_MEMORY_BYTES,
            f"{node.memory_bytes / 1e9:.1f} GB",
            "the shipped topologies need about 14 GB: lower max_total_tokens and store.segment_gb",
        )
    )
    free = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0
    symptoms.append(
        Symptom(
            "/dev/shm",
            free >= MIN_SHM_BYTES,
            f"{free / 1e6:.0f} MB free",
            "give the container more shared memory (--shm-size 1g)",
        )
    )
    symptoms.append(
        Symptom(
            "port 8000",
            port_is_free(8000),
            "free" if port_is_free(8000) else "in use",
            "choose another with --set gateway.port=PORT",
        )
    )
    beside = Path(sys.executable).with_name("etcd")
    etcd = str(beside) if beside.is_file() else shutil.which("etcd")
    symptoms.append(
        Symptom(
            "etcd",
            etcd is not None,
            etcd or "missing",
            "needed for several Mooncake masters (store.ha) only: apt-get install etcd-server",
            needed=False,
        )
    )
    symptoms += [
        Symptom(
            f"store {name}",
            not lacks,
            f"lacks {', '.join(lacks)}" if lacks else "its packages are there",
            f"needed for store.backend {name} only: docs/backends.md",
            needed=False,
        )
        for name, backend in BACKENDS.items()
        if (packages := backend.traits.packages)
        for lacks in [not_installed(packages)]
    ]
    rdma = sorted(p.name for p in Path("/sys/class/infiniband").glob("*"))
    symptoms.append(
        Symptom(
            "RDMA",
            bool(rdma),
            ", ".join(rdma) or "no device",
            "without it KV travels by TCP",
            needed=False,
        )
    )
    symptoms.append(
        Symptom("GPUs", node.gpus > 0, str(node.gpus), "without one use device: cpu", needed=False)
    )
    return symptoms


def doctor_command(json: Json = False) -> None:
    """Look at what this machine has and lacks for running clusters, each with its remedy.

    Exit 1 when something that every cluster needs is missing.

    Example: pdcache doctor --json
    """
    symptoms = examine()
    if json:
        print_json({"schema": 1, "symptoms": [asdict(symptom) for symptom in symptoms]})
    else:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column in ("", "what", "found", "remedy"):
            table.add_column(column, overflow="fold")
        for symptom in symptoms:
            mark = (
                "[green]ok[/]"
                if symptom.ok
                else ("[red]lacks[/]" if symptom.needed else "[yellow]none[/]")
            )
            table.add_row(mark, symptom.what, symptom.found, "" if symptom.ok else symptom.remedy)
        out.print(table)
    if any(symptom.needed and not symptom.ok for symptom in symptoms):
        raise typer.Exit(1)


def _python() -> Symptom:
    version = ".".join(map(str, sys.version_info[:3]))
    return Symptom("python", sys.version_info >= (3, 11), version, "use Python 3.11 or newer")


def _package(name: str, remedy: str) -> Symptom:
    if importlib.util.find_spec(name) is None:
        return Symptom(name, False, "missing", remedy)
    owners = importlib.metadata.packages_distributions().get(name, [name])
    return Symptom(name, True, importlib.metadata.version(owners[0]), remedy)


def _library(name: str, remedy: str) -> Symptom:
    found = ctypes.util.find_library(name)
    return Symptom(f"lib{name}", found is not None, found or "missing", remedy)
