"""A plan as a script that a person can run by hand."""

from __future__ import annotations

import json
import shlex
import subprocess

import pytest
from golden.plans import GOLDEN, golden_plan

from pdcache.plan.shell import shell_script

PLANS = pytest.mark.parametrize("name", GOLDEN)


def started(script: str) -> dict[str, list[str]]:
    """The words after `run NAME GRACE` of every process that the script starts."""
    found = {}
    for line in script.replace("\\\n", " ").splitlines():
        if line.startswith("run ") and not line.startswith("run ()"):
            _, name, grace, *words = shlex.split(line)
            assert float(grace) > 0
            found[name] = words
    return found


@PLANS
def test_bash_reads_the_script(name: str) -> None:
    done = subprocess.run(
        ["bash", "-n"], input=shell_script(golden_plan(name)), text=True, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@PLANS
def test_the_script_starts_every_process_with_its_words_and_environment(name: str) -> None:
    plan = golden_plan(name)
    found = started(shell_script(plan))
    assert list(found) == [process.name for process in plan.processes]
    for process in plan.processes:
        words = found[process.name]
        assert words[0] == "env"
        assert words[-len(process.argv) :] == list(process.argv)
        pairs = dict(word.split("=", 1) for word in words[1 : -len(process.argv)])
        devices = pairs.pop("CUDA_VISIBLE_DEVICES", "")
        assert pairs == process.env
        assert len(devices.split(",")) == process.gpus if devices else process.gpus == 0


@PLANS
def test_no_gpu_is_given_to_two_servers(name: str) -> None:
    words = " ".join(
        word for own in started(shell_script(golden_plan(name))).values() for word in own
    )
    devices = [
        gpu
        for word in words.split()
        if word.startswith("CUDA_VISIBLE_DEVICES=")
        for gpu in word.partition("=")[2].split(",")
    ]
    assert len(devices) == len(set(devices))


@PLANS
def test_every_process_is_waited_for_before_the_next_wave(name: str) -> None:
    plan = golden_plan(name)
    script = shell_script(plan)
    for process in plan.processes:
        wait = (
            f"wait_http {process.url}{process.ready_path} "
            if process.url
            else f"wait_port {process.address} {process.health_port} "
        )
        begin, ready = script.index(f"run {process.name} "), script.index(wait)
        assert begin < ready
        for later in plan.processes:
            if later.wave > process.wave:
                assert ready < script.index(f"run {later.name} ")


def test_the_gateway_gets_a_manifest_of_all_workers() -> None:
    plan = golden_plan("full_offload")
    script = shell_script(plan)
    text = script.partition("<<'WORKERS'\n")[2].partition("\nWORKERS\n")[0]
    assert [worker["id"] for worker in json.loads(text)["workers"]] == [
        "prefill-0",
        "prefill-1",
        "decode-0",
    ]
    assert script.index("<<'WORKERS'") < script.index("run gateway ")
