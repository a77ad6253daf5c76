"""The command lines of a plan in the hands of the installed smg and Mooncake programs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar, get_args

import httpx
import pytest
from golden.plans import GOLDEN, MODELS, golden_plan, shipped

from pdcache.cluster.probe import ready
from pdcache.cluster.supervised import SupervisedProcess, tail
from pdcache.plan import Plan, build_plan
from pdcache.plan.process import Process
from pdcache.sglang_cpu import worker_environment
from pdcache.store.health import healthy
from pdcache.store.mooncake_commands import CLIENT_ENV
from pdcache.store.presence import present
from pdcache.topology import Role
from pdcache.topology.facts import Facts, port_is_free
from pdcache.topology.schema import Gateway
from tests.cluster_tools import port_of_this_process

PROGRAMS = Path(sys.executable).parent
START_LIMIT_S = 60.0
T = TypeVar("T")

# argv: master's host:port. Writes 90 objects of 1 MiB at 20 a second and, as SGLang, tries none
# again; prints how many were stored, and how many of these are read back equal.
FILL = """
import ctypes, random, sys, time
from mooncake.store import MooncakeDistributedStore
store = MooncakeDistributedStore()
if store.setup("127.0.0.1", "P2PHANDSHAKE", 0, 16 << 20, "tcp", "", sys.argv[1]) != 0:
    sys.exit("no connection to the master")
size = 1 << 20
buffer = ctypes.create_string_buffer(size)
address = ctypes.addressof(buffer)
store.register_buffer(address, size)
stored = []
for i in range(90):
    ctypes.memmove(address, random.Random(i).randbytes(size), size)
    if store.put_from(f"page{i}", address, size) == 0:
        stored.append(i)
    time.sleep(0.05)
deadline, equal = time.monotonic() + 20, []
while len(equal) < len(stored) and time.monotonic() < deadline:
    equal = [
        i for i in stored
        if store.get_into(f"page{i}", address, size) == size
        and buffer.raw == random.Random(i).randbytes(size)
    ]
store.close()
print(len(stored), len(equal))
"""

# argv: master's host:port, key, tenant. Without a segment of its own, as the workers are.
PUT = """
import os, sys
from mooncake.store import MooncakeDistributedStore
store = MooncakeDistributedStore()
master, key, tenant = sys.argv[1:]
where = ("127.0.0.1", "P2PHANDSHAKE", 0, 16 << 20, "tcp", "", master)
if store.setup(*where, tenant_id=tenant) != 0:
    sys.exit("no connection to the master")
code = store.put(key, b"x" * 4096)
store.close()
sys.exit(code and f"put: {code}")
"""


def help_of(program: str, *words: str) -> str:
    """The help text of an installed program, whatever its exit code."""
    done = subprocess.run(
        [PROGRAMS / program, *words, "--help"], capture_output=True, text=True, timeout=60
    )
    return done.stdout + done.stderr


def flags(argv: tuple[str, ...]) -> set[str]:
    return {word.partition("=")[0] for word in argv if word.startswith("--")}


@pytest.fixture(scope="module")
def smg_help() -> str:
    return help_of("smg", "launch")


@pytest.mark.parametrize("name", GOLDEN)
def test_smg_knows_every_flag_of_the_gateway(smg_help: str, name: str) -> None:
    known = set(re.findall(r"--[\w-]+", smg_help))
    (gateway,) = golden_plan(name).role(Role.GATEWAY)
    assert flags(gateway.argv) - known == set()
    assert "--no-such-flag" not in known


@pytest.mark.parametrize("key", ["prefill_policy", "decode_policy"])
def test_smg_knows_every_policy_a_topology_may_name(smg_help: str, key: str) -> None:
    match = re.search(rf"--{key.replace('_', '-')} \{{([^}}]*)\}}", smg_help)
    assert match is not None
    ours = set(get_args(Gateway.model_fields[key].annotation))
    assert ours
    assert ours <= {policy.strip() for policy in match[1].split(",")}


@pytest.mark.parametrize("program", ["mooncake_master", "mooncake_client"])
def test_mooncake_knows_every_flag_of_its_processes(program: str) -> None:
    known = {f"--{name}" for name in re.findall(r"^\s+-(\w+) \(", help_of(program), re.MULTILINE)}
    given = [
        process.argv for name in GOLDEN for process in golden_plan(name).role(Role.STORE)
        if process.argv[0].endswith(program)
    ]  # fmt: skip
    assert len(given) > 2
    for argv in given:
        assert flags(argv) - known == set()
    assert "--no_such_flag" not in known


def plan_of(tmp_path: Path, name: str, *overrides: str) -> Plan:
    """A plan of a shipped topology on ports that are free now."""
    port = next(port for port in range(20900, 21000) if port_of_this_process(port))
    topology = shipped(name, *overrides, f"gateway.port={port}")
    facts = Facts(
        home=tmp_path, temp=tmp_path, python=sys.executable, models=MODELS,
        port_free=port_of_this_process,
    )  # fmt: skip
    return build_plan(topology, facts)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """A small full_offload plan."""
    return plan_of(tmp_path, "full_offload", "store.segment_gb=0.1")


def asked(ask: Callable[[httpx.AsyncClient], Awaitable[T]]) -> T:
    async def go() -> T:
        async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
            return await ask(client)

    return asyncio.run(go())


@contextlib.contextmanager
def running(process: Process, folder: Path) -> Iterator[SupervisedProcess]:
    """A process of a plan, from its start until it is ready until its end."""
    log = folder / f"{process.name}.log"
    for own_folder in process.folders:
        Path(own_folder).mkdir(parents=True, exist_ok=True)
    for path, text in process.files.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)
    own = SupervisedProcess(
        process.argv, env=os.environ | process.env, log=log, grace_s=process.grace_s
    )
    try:
        deadline = time.monotonic() + START_LIMIT_S
        while missing := asked(lambda client: ready(process, client)):
            assert own.running, f"{process.name} died: {tail(log)}"
            assert time.monotonic() < deadline, f"{process.name}: {missing}: {tail(log)}"
            time.sleep(0.05)
        yield own
    finally:
        assert own.stop()
    assert [port for port in process.ports.values() if not port_is_free(port)] == []


def put(master: str, key: str, tenant: str = "default") -> None:
    """Write one key in a process of its own, as a worker does."""
    env = os.environ | CLIENT_ENV | worker_environment()
    done = subprocess.run(
        [sys.executable, "-c", PUT, master, key, tenant], env=env, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_store_started_from_a_plan_holds_keys_and_leaves_nothing(
    plan: Plan, tmp_path: Path
) -> None:
    master, holder = plan.process("store-master"), plan.process("store-holder-0")
    with running(master, tmp_path), running(holder, tmp_path):
        assert asked(lambda client: healthy(client, plan.store)) is None
        put(f"127.0.0.1:{master.ports['rpc']}", "page_0_k")
        keys = ["page_0_k", "page_0_v"]
        assert asked(lambda client: present(client, plan.store, keys)) == {"page_0_k"}
    gone = asked(lambda client: healthy(client, plan.store))
    assert gone is not None


def test_pages_that_left_memory_are_read_back_from_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    sets = ["store.segment_gb=0.064", f"store.ssd.path={disk}", "store.ssd.size_gb=1"]
    plan = plan_of(tmp_path, "mooncake_ssd", *sets)
    master, holder = plan.process("store-master"), plan.process("store-holder-0")
    with running(master, tmp_path), running(holder, tmp_path):
        env = os.environ | CLIENT_ENV | worker_environment()
        done = subprocess.run(
            [sys.executable, "-c", FILL, f"127.0.0.1:{master.ports['rpc']}"],
            env=env, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    stored, equal = map(int, done.stdout.split())
    assert stored == equal
    assert stored > 64, "more than the memory of the segment"
    assert any(path.suffix == ".bucket" for path in disk.rglob("*"))


def test_a_tenant_that_the_topology_names_can_store_and_others_cannot(tmp_path: Path) -> None:
    sets = ["store.segment_gb=0.064", "store.tenant=team-a", "store.tenant_quota_gb=0.05"]
    plan = plan_of(tmp_path, "full_offload", *sets)
    master, holder = plan.process("store-master"), plan.process("store-holder-0")
    with running(master, tmp_path), running(holder, tmp_path):
        address = f"127.0.0.1:{master.ports['rpc']}"
        put(address, "page", "team-a")
        with pytest.raises(AssertionError, match="put: -1701"):
            put(address, "page", "team-b")
