"""`check` and `plan`: their JSON, their text, their exit codes."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from command_outcome import Pdcache
from golden.plans import SHIPPED, shipped

from pdcache.cli import output


def test_a_sound_topology_passes(pdcache: Pdcache, small: Path) -> None:
    done = pdcache("check", small)
    assert (done.code, done.out.strip()) == (0, f"ok {small}: nothing found.")


def test_check_json_of_a_sound_topology_is_an_empty_list(pdcache: Pdcache, small: Path) -> None:
    done = pdcache("check", small, "--json")
    assert done.code == 0
    assert done.json() == {"schema": 1, "findings": []}


def test_an_error_is_exit_1_with_the_corrected_yaml(pdcache: Pdcache, small: Path) -> None:
    done = pdcache("check", small, "--set", "decode.page_size=32")
    assert done.code == 1
    assert "error page-size at decode.page_size: prefill has pages of 64 tokens" in done.out
    assert "    decode:\n      page_size: 64\n" in done.out


def test_check_json_has_the_keys_that_programs_rely_on(pdcache: Pdcache, small: Path) -> None:
    done = pdcache("check", small, "--json", "--set", "decode.page_size=32")
    assert done.code == 1
    (finding,) = done.json()["findings"]
    assert set(finding) == {"rule", "severity", "path", "message", "fix"}
    assert (finding["rule"], finding["severity"]) == ("page-size", "error")


def test_a_warning_alone_is_exit_0(pdcache: Pdcache, small: Path) -> None:
    done = pdcache("check", small, "--set", "hicache.prefetch_policy=best_effort")
    assert done.code == 0
    assert "warning prefetch-policy at hicache.prefetch_policy" in done.out


def test_a_skipped_rule_does_not_fail_the_check(pdcache: Pdcache, small: Path) -> None:
    broken = ("check", small, "--set", "decode.page_size=32")
    assert pdcache(*broken, "--skip-check", "page-size").code == 0
    unknown = pdcache(*broken, "--skip-check", "page")
    assert unknown.code == 1
    assert "--skip-check: there is no rule named page. Rules: " in unknown.err


def test_plan_json_has_the_keys_that_programs_rely_on(pdcache: Pdcache, small: Path) -> None:
    done = pdcache("plan", small, "--json")
    assert done.code == 0
    plan = done.json()
    assert plan.keys() >= {"schema", "name", "mode", "processes", "memory", "provenance"}
    assert (plan["schema"], plan["name"], plan["mode"]) == (1, "small", "full_offload")
    assert [process["name"] for process in plan["processes"]] == [
        "store-master", "store-holder-0", "prefill-0", "decode-0", "gateway",
    ]  # fmt: skip
    for process in plan["processes"]:
        assert process.keys() >= {"name", "role", "argv", "env", "ports", "resources"}


def test_a_plan_runs_the_servers_with_this_interpreter(pdcache: Pdcache, small: Path) -> None:
    processes = {p["name"]: p for p in pdcache("plan", small, "--json").json()["processes"]}
    assert processes["decode-0"]["argv"][:3] == [sys.executable, "-m", "sglang.launch_server"]


def test_a_plan_starts_nothing_and_writes_nothing(
    pdcache: Pdcache, small: Path, home: Path
) -> None:
    pdcache("plan", small)
    assert not home.exists()


def test_a_plan_for_a_person_shows_every_flag_with_its_reason(
    pdcache: Pdcache, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output.out, "width", 1000)
    done = pdcache("plan", small)
    origins = pdcache("plan", small, "--json").json()["provenance"]
    assert done.code == 0
    for process, flags in origins.items():
        assert process in done.out
        for flag, origin in flags.items():
            assert flag in done.out
            assert origin["reason"] in done.out
    assert "memory node 127.0.0.1" in done.out
    assert "store-holder-0 segment" in done.out


def test_a_plan_as_a_script_is_bash_with_every_process(pdcache: Pdcache, small: Path) -> None:
    done = pdcache("plan", small, "--shell")
    assert done.code == 0
    read = subprocess.run(["bash", "-n"], input=done.out, text=True, capture_output=True)
    assert read.returncode == 0
    for process in pdcache("plan", small, "--json").json()["processes"]:
        assert " ".join(shlex.quote(word) for word in process["argv"]) in done.out


def test_a_plan_of_a_mistaken_topology_is_shown_with_the_mistake(
    pdcache: Pdcache, small: Path
) -> None:
    done = pdcache("plan", small, "--json", "--set", "decode.page_size=32")
    assert done.json()["name"] == "small"
    assert "error page-size at decode.page_size" in done.err


@pytest.mark.parametrize("command", ["check", "plan"])
@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_topologies_are_answered_in_json(
    pdcache: Pdcache, command: str, name: str
) -> None:
    room = () if shipped(name).nodes else ("--set", "memory.host_gb=17")
    done = pdcache(command, SHIPPED[name], "--json", *room)
    assert done.code == 0
    assert done.json()["schema"] == 1


@pytest.mark.parametrize("command", ["check", "plan", "up"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere.yaml"], "nowhere.yaml: cannot read the topology: No such file"),
        (["."], ".: cannot read the topology: Is a directory"),
        (["FILE", "--set", "page_sise=3"], "page_sise: unknown key. Did you mean `page_size`?"),
        (["FILE", "--set", "page_size"], "cannot read the override 'page_size'"),
        (["FILE", "--set", "page_size=[1"], "cannot read the override 'page_size=[1'"),
        (["FILE", "--set", "page_size=0"], "page_size: Input should be greater than or equal"),
    ],
)
def test_a_mistake_of_the_users_is_exit_1_and_says_where(
    pdcache: Pdcache, small: Path, command: str, words: list[str], said: str
) -> None:
    done = pdcache(command, *[str(small) if word == "FILE" else word for word in words])
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error ")
    assert said in done.err


def test_an_unknown_key_is_told_with_its_line(pdcache: Pdcache, small: Path) -> None:
    small.write_text(small.read_text() + "hicache:\n  layuot: page_head\n")
    line = len(small.read_text().splitlines())
    done = pdcache("check", small)
    assert done.code == 1
    assert f"{small}:{line}: hicache.layuot: unknown key. Did you mean `layout`?" in done.err


def test_a_file_nobody_may_read_as_text_is_exit_1(pdcache: Pdcache, small: Path) -> None:
    small.write_bytes(b"\xff\xfe\x00")
    done = pdcache("check", small)
    assert done.code == 1
    assert "UTF-8" in done.err


def test_up_stops_at_a_mistake_and_starts_nothing(
    pdcache: Pdcache, small: Path, home: Path
) -> None:
    done = pdcache("up", small, "--set", "decode.page_size=32")
    assert done.code == 1
    assert "error page-size at decode.page_size" in done.err
    assert "nothing was started" in done.err
    assert not home.exists()
