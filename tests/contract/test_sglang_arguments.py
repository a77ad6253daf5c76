"""Every server of every golden plan, in the hands of SGLang's own argument parser and rules.

Importing SGLang takes long, so one process of the CPU lane reads all command lines.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from golden.plans import GOLDEN, golden_plan

from pdcache.models import resolve_model
from pdcache.plan.process import Process
from pdcache.sglang_cpu import pythonpath_folder, worker_environment
from pdcache.topology import Role
from pdcache.topology.settings import Setting, resolve

SERVERS: dict[str, Process] = {
    f"{name}: {process.name}": process
    for name in GOLDEN
    for process in golden_plan(name).processes
    if process.role in (Role.PREFILL, Role.DECODE)
}
LAYOUTS = ("layer_first", "page_first", "page_first_direct", "page_head")
PAIRS = [(layout, io) for layout in LAYOUTS for io in ("kernel", "direct")]

# Reads {name: argv} on stdin; prints a JSON line a name: what each argument is after all rules.
READ = """
import json, sys
from sglang.srt.server_args import prepare_server_args

def read(argv):
    args = prepare_server_args(argv)
    args.resolve_once()
    return args.resolved_dict()

for name, argv in json.load(sys.stdin).items():
    try:
        result = read(argv)
    except (Exception, SystemExit) as error:
        result = {"refused": f"{type(error).__name__}: {error}"}
    print("RESULT", json.dumps([name, result], default=str), flush=True)
"""


def with_value(argv: list[str], flag: str, value: str) -> list[str]:
    """The words with another value of a flag that is among them."""
    at = argv.index(flag)
    return [*argv[: at + 1], value, *argv[at + 2 :]]


def arguments(process: Process, **values: str) -> list[str]:
    """A server's own words, with a model that is on every machine and no device that is not."""
    argv = with_value(list(process.argv[3:]), "--model-path", resolve_model("tiny-random"))
    for name, value in values.items():
        argv = with_value(argv, "--" + name.replace("_", "-"), value)
    if "--disaggregation-ib-device" in argv:
        # SGLang looks the device up in /sys/class/infiniband.
        at = argv.index("--disaggregation-ib-device")
        argv = argv[:at] + argv[at + 2 :]
    return argv


@pytest.fixture(scope="module")
def read() -> dict[str, dict[str, Any]]:
    """What SGLang makes of every command line, by its name."""
    lines = {name: arguments(process) for name, process in SERVERS.items()}
    base = golden_plan("full_offload").process("prefill-0")
    for layout, io in PAIRS:
        lines[f"{layout} {io}"] = arguments(base, hicache_mem_layout=layout, hicache_io_backend=io)
    lines["nonsense"] = [*arguments(base), "--no-such-flag"]
    done = subprocess.run(
        [sys.executable, "-c", READ],
        env=os.environ | worker_environment() | {"PYTHONPATH": str(pythonpath_folder())},
        input=json.dumps(lines), capture_output=True, text=True, timeout=300, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = [line[7:] for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    return dict(map(json.loads, results))


@pytest.mark.parametrize("name", SERVERS)
def test_sglang_takes_every_server_of_a_plan(read: dict[str, dict[str, Any]], name: str) -> None:
    assert "refused" not in read[name], read[name]


@pytest.mark.parametrize("name", SERVERS)
def test_after_sglangs_own_rules_every_argument_is_what_the_plan_says(
    read: dict[str, dict[str, Any]], name: str
) -> None:
    plan, _, process = name.partition(": ")
    looked_up_elsewhere = {"--model-path", "--disaggregation-ib-device"}
    planned = {
        flag[2:].replace("-", "_"): origin.value
        for flag, origin in golden_plan(plan).provenance[process].items()
        if flag not in looked_up_elsewhere
    }
    assert {key: read[name][key] for key in planned} == planned


@pytest.mark.parametrize("name", SERVERS)
def test_what_is_left_to_sglang_does_not_work_against_the_mode(
    read: dict[str, dict[str, Any]], name: str
) -> None:
    found, process = read[name], SERVERS[name]
    assert found["disaggregation_mode"] == process.role.value
    mode = golden_plan(name.partition(":")[0]).mode.value
    if process.role is Role.PREFILL:
        assert found["enable_hierarchical_cache"]
        assert not found["disable_radix_cache"]
    else:
        assert not found["disaggregation_decode_enable_radix_cache"]
        offloads = mode == "full_offload"
        assert found["disaggregation_decode_enable_offload_kvcache"] is offloads


@pytest.mark.parametrize(("layout", "io"), PAIRS)
def test_sglang_switches_layout_and_io_as_we_say_it_does(
    read: dict[str, dict[str, Any]], layout: str, io: str
) -> None:
    ours = resolve(
        {
            "hicache_mem_layout": Setting(layout, "user", "", ""),
            "hicache_io_backend": Setting(io, "user", "", ""),
        }
    )
    theirs = read[f"{layout} {io}"]
    assert {key: theirs.get(key) for key in ours} == {key: own.value for key, own in ours.items()}


def test_an_argument_sglang_does_not_know_would_be_seen(read: dict[str, dict[str, Any]]) -> None:
    assert "refused" in read["nonsense"]
