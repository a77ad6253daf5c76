"""Which processes may be forks of a preloaded server, and where they ask for one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from golden.plans import golden_plan

from pdcache.cluster.environment import process_environment
from pdcache.cluster.preload import preloaded_socket, server_to_preload
from pdcache.plan.process import Process

PLAN = golden_plan("full_offload")
TEMP = "/tmp/scratch"


def local(name: str, **env: str) -> Process:
    """A process of the golden plan as this interpreter's, with more in its environment."""
    process = PLAN.process(name)
    return replace(process, argv=(sys.executable, *process.argv[1:]), env=process.env | env)


PREFILL, DECODE = local("prefill-0"), local("decode-0")


def test_prefill_and_decode_are_forks_of_the_same_server() -> None:
    assert PREFILL.env != DECODE.env
    path = preloaded_socket(PREFILL, TEMP)
    assert path is not None
    assert path.parent == Path(TEMP)
    assert preloaded_socket(DECODE, TEMP) == path
    assert server_to_preload([local("store-master"), DECODE, PREFILL], TEMP) == (DECODE, path)


def test_another_environment_has_another_server() -> None:
    assert preloaded_socket(local("prefill-0", MC_LOG_LEVEL="INFO"), TEMP) != (
        preloaded_socket(PREFILL, TEMP)
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda one: replace(one, env=one.env | {"SGLANG_USE_CPU_ENGINE": "0"}),
        lambda one: replace(one, argv=("/other/python", *one.argv[1:])),
        lambda one: replace(one, argv=(*one.argv[:2], "another.module", *one.argv[3:])),
        lambda one: local("gateway"),
    ],
    ids=["a GPU", "another interpreter", "another module", "no server"],
)
def test_what_cannot_be_a_fork_is_none(change: Callable[[Process], Process]) -> None:
    assert preloaded_socket(change(PREFILL), TEMP) is None
    assert server_to_preload([change(PREFILL)], TEMP) is None


def test_the_environment_of_a_process_is_without_rays_and_with_what_is_planned() -> None:
    own = {"RAY_AUTH_TOKEN_PATH": "/token", "PATH": "/bin", "PYTHONPATH": "/own", "HOME": "/home"}
    env = process_environment(PREFILL, "an-id", own)
    assert not [name for name in env if name.startswith("RAY_")]
    assert env["HOME"] == "/home"
    assert env["PATH"].split(":") == [str(Path(sys.executable).parent), "/bin"]
    assert env["PYTHONPATH"] == f"{PREFILL.env['PYTHONPATH']}:/own"
    assert env | PREFILL.env | {"PYTHONPATH": env["PYTHONPATH"]} == env
    assert env["PDCACHE_CLUSTER_ID"] == "an-id"
    assert "PYTHONPATH" not in process_environment(local("gateway"), "an-id", {"PATH": "/bin"})
