"""The command line as a whole: help, usage errors, defects, and commands on no cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from command_outcome import Pdcache

from pdcache import __version__
from pdcache.cli import describe, doctor
from pdcache.cli.main import app
from pdcache.cluster.record import Record, log_file

COMMANDS = [str(command.name) for command in app.registered_commands]


def test_every_promised_command_is_there() -> None:
    promised = {"up", "check", "plan", "status", "logs", "down", "verify", "replay", "compare"}
    assert promised | {"doctor"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_shows_an_example(pdcache: Pdcache, command: str) -> None:
    done = pdcache(command, "--help")
    assert done.code == 0
    assert f"Example: pdcache {command}" in " ".join(done.out.split())


def test_the_help_lists_every_command(pdcache: Pdcache) -> None:
    done = pdcache("--help")
    assert done.code == 0
    for command in COMMANDS:
        assert command in done.out
    assert "pdcache up topologies/full_offload.yaml" in done.out


def test_the_version_is_printed(pdcache: Pdcache) -> None:
    done = pdcache("--version")
    assert (done.code, done.out.strip()) == (0, f"pdcache {__version__}")


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["check"],
        ["check", "--nonsense"],
        ["plan", "a.yaml", "b.yaml"],
        ["up", "a.yaml", "--timeout", "soon"],
        ["logs"],
    ],
)
def test_wrong_usage_is_exit_2(pdcache: Pdcache, words: list[str]) -> None:
    done = pdcache(*words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("Usage: ")


def test_a_defect_is_told_in_a_line_with_a_report(
    pdcache: Pdcache, small: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(describe, "load_topology", broken)
    done = pdcache("check", small)
    assert done.code == 1
    assert "a defect of pdcache: RuntimeError: out of order" in done.err
    report = home / "last_error.txt"
    assert str(report) in done.err
    assert "Traceback" in report.read_text()


def test_ctrl_c_is_exit_130(pdcache: Pdcache, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(describe, "load_topology", interrupted)
    assert pdcache("check", small).code == 130


def test_the_installed_command_answers_a_mistake_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pdcache.cli.main", "check", str(tmp_path / "none.yaml")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error ")
    assert len(done.stderr.strip().splitlines()) == 1


def test_status_with_nothing_up_says_so(pdcache: Pdcache) -> None:
    done = pdcache("status")
    assert (done.code, done.out.strip()) == (0, "no cluster is up.")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["status", "demo"], "no cluster named 'demo' is up"),
        (["status", "--json"], "no cluster is up. Bring one up: "),
        (["verify"], "no cluster is up. Bring one up: "),
        (["verify", "demo"], "no cluster named 'demo' is up"),
        (["logs", "demo"], "there are no logs of a cluster named 'demo'"),
    ],
)
def test_asking_about_a_cluster_that_is_not_there_is_exit_1(
    pdcache: Pdcache, words: list[str], said: str
) -> None:
    done = pdcache(*words)
    assert (done.code, done.out) == (1, "")
    assert said in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["down"], "nothing is up: nothing to end."),
        (["down", "--all"], "nothing is up: nothing to end."),
        (["down", "demo"], "demo is not up: nothing to end."),
    ],
)
def test_ending_what_is_not_up_is_fine(pdcache: Pdcache, words: list[str], said: str) -> None:
    done = pdcache(*words)
    assert (done.code, done.out.strip()) == (0, said)


def test_down_json_tells_what_ended_and_what_is_left(pdcache: Pdcache) -> None:
    done = pdcache("down", "--json")
    assert (done.code, done.json()) == (0, {"schema": 1, "ended": [], "left": {}})


def test_a_name_is_up_once(pdcache: Pdcache, small: Path) -> None:
    Record(
        name="small", id="ab", address="127.0.0.1:1", token_file=None, temp_dir=None,
        scratch_dir=None, head_pid=None, head_started=None, created_s=1.0,
    ).save()  # fmt: skip
    done = pdcache("up", small)
    assert done.code == 1
    assert "a cluster named 'small' is up already" in done.err
    assert "pdcache down small" in done.err


def test_the_logs_of_a_cluster_are_shown_by_process(pdcache: Pdcache) -> None:
    for process, text in {"decode-0": "d1\nd2\n", "prefill-0": "\x1b[32mp1\x1b[0m\np2\n"}.items():
        path = log_file("demo", process)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert pdcache("logs", "demo", "prefill-0").out == "p1\np2\n"
    assert pdcache("logs", "demo", "prefill-0", "-n", "1").out == "p2\n"
    assert [line.split(" | ") for line in pdcache("logs", "demo").out.splitlines()] == [
        ["decode-0        ", "d1"],
        ["decode-0        ", "d2"],
        ["prefill-0       ", "p1"],
        ["prefill-0       ", "p2"],
    ]
    unknown = pdcache("logs", "demo", "prefill-9")
    assert unknown.code == 1
    assert "Processes: decode-0, prefill-0." in unknown.err


def test_doctor_looks_at_this_machine_and_has_a_remedy_for_everything(pdcache: Pdcache) -> None:
    done = pdcache("doctor", "--json")
    symptoms = done.json()["symptoms"]
    assert {"python", "ray", "memory", "RDMA", "GPUs"} <= {own["what"] for own in symptoms}
    assert all(own["remedy"] for own in symptoms)
    lacking = [own["what"] for own in symptoms if own["needed"] and not own["ok"]]
    assert done.code == (1 if lacking else 0)


@pytest.mark.parametrize(
    ("ok", "needed", "code", "verdict"),
    [(True, True, 0, "ok"), (False, False, 0, "none"), (False, True, 1, "lacks")],
)
def test_doctor_fails_only_for_what_every_cluster_needs(
    pdcache: Pdcache,
    monkeypatch: pytest.MonkeyPatch,
    ok: bool,
    needed: bool,
    code: int,
    verdict: str,
) -> None:
    symptom = doctor.Symptom("RDMA", ok, "no device", "buy one", needed)
    monkeypatch.setattr(doctor, "examine", lambda: [symptom])
    done = pdcache("doctor")
    assert done.code == code
    assert verdict in done.out
    assert ("buy one" in done.out) is not ok
