"""A plan as a script that a person can run by hand."""

from __future__ import annotations

import json
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from golden.plans import GOLDEN, fixed_facts, golden_plan, shipped

from pdcache.plan import build_plan
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


def head_of(script: str, name: str) -> str:
    """What the script does just before it starts a process."""
    begin = script.index(f"run {name} ")
    return script[:begin].rpartition("wait_")[2]


def scripted(*overrides: str, **facts: Any) -> str:
    topology = shipped("full_offload", *overrides)
    return shell_script(build_plan(topology, replace(fixed_facts(), **facts)))


def test_files_and_folders_of_a_process_are_made_before_it_starts() -> None:
    script = scripted("store={backend: hf3fs, path: /3fs/my pages}")
    head = head_of(script, "prefill-0")
    assert "mkdir -p '/3fs/my pages/kv" in head
    config = "/tmp/pdcache-1000/full-offload/store/hf3fs-prefill.json"
    text = head.partition(f"cat >{config} <<'PDCACHE_FILE'\n")[2].partition("\nPDCACHE_FILE\n")[0]
    assert json.loads(text)["numjobs"] == 16
    assert f"mkdir -p {config.rpartition('/')[0]}\n" in head


def test_what_the_script_writes_is_what_the_process_reads(tmp_path: Path) -> None:
    """Bash runs the lines before the first server; quotes, dollars and lines stay as they are."""
    code = "class C:\n    text = '$HOME `date` \\\\ \"x\"'\n\n# end\n"
    store = "store={backend: dynamic, backend_name: a, module_path: m, class_name: C, code: /m.py}"
    script = scripted(store, code={"inner/m.py": code}, temp=tmp_path)
    before = script.partition("run prefill-0 ")[0].rpartition('echo "logs: $LOGS"')[2]
    lines = before.splitlines()[2:]  # without the folders of the cluster itself
    subprocess.run(["bash", "-c", "\n".join(lines)], check=True)
    (written,) = tmp_path.rglob("m.py")
    assert written.read_text() == code
    assert written.parent.parts[-2:] == ("code", "inner")


@pytest.mark.parametrize(
    "store",
    [
        "store={backend: hf3fs, path: /3fs}",
        "store={backend: file, path: /nfs}",
        "store={ha: {masters: 2}, ssd: {path: /ssd, size_gb: 1}, tenant: a, tenant_quota_gb: 1}",
        "store={backend: eic, config: {remote_url: a}}",
    ],
)
def test_bash_reads_the_script_of_every_store(store: str) -> None:
    done = subprocess.run(["bash", "-n"], input=scripted(store), text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")
