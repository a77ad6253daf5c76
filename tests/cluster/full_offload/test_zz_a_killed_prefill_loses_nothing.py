"""What is lost when a controller or a prefill worker is killed: nothing.

Last in the folder: it takes a worker out of the shared cluster and waits for it to come back.
"""

from __future__ import annotations

from typing import Any

from pdcache.topology import Role
from tests.cluster_tools import Shell, kill, wait_for
from tests.dialogues import Running, assert_full_reuse, dialogue


def test_a_killed_controller_comes_back_and_adopts_its_processes(
    shell: Shell, full_offload: dict[str, Any]
) -> None:
    name = full_offload["name"]

    def controllers() -> list[int]:
        return [p.pid for p in shell.processes() if "ray::Controller" in " ".join(p.cmdline())]

    before = shell.json("status", name)["workers"]
    (old,) = controllers()
    kill(old)

    def is_back() -> bool:
        return shell.json("status", name)["state"] == "UP" and controllers() not in ([], [old])

    wait_for(is_back, "another controller", limit_s=60)
    after = shell.json("status", name)["workers"]
    for old_worker, new_worker in zip(before, after, strict=True):
        for key in ("name", "pid", "incarnation", "restarts"):
            assert new_worker[key] == old_worker[key]


def test_the_peer_of_a_killed_prefill_still_hits_the_full_ceiling(
    shell: Shell, full_offload: dict[str, Any], running: Running
) -> None:
    name = full_offload["name"]
    first, second = running.plan.role(Role.PREFILL)
    before = {worker["name"]: worker for worker in shell.json("status", name)["workers"]}

    def kill_the_first(turn: int) -> None:
        if turn == 1:
            kill(before[first.name]["pid"])

    turns = dialogue(
        running, answer=40, flushed=False, turns=2, seed=99, after_turn=kill_the_first,
        prefill_of=lambda turn: first if turn == 1 else second,
    )  # fmt: skip
    assert_full_reuse(turns)
    assert turns[1].storage == turns[1].ceiling

    def recovered() -> bool:
        status = shell.json("status", name)
        now = {worker["name"]: worker for worker in status["workers"]}[first.name]
        return status["state"] == "UP" and now["incarnation"] == 2 and now["restarts"] == 1

    wait_for(recovered, "the killed prefill to be recreated", limit_s=150)
    assert shell.json("verify", name)["proved"] is True
