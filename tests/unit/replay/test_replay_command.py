"""`pdcache replay` as a process of its own: killed, interrupted, gone on with."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pdcache.replay import dump_sessions, generate_chat
from pdcache.replay.journal import read_lines

SESSIONS, TURNS = 6, 3


@pytest.fixture
def workload(tmp_path: Path) -> Path:
    chat = generate_chat(
        SESSIONS, TURNS, first_words=12, question_words=5, answer_tokens=6, think_s=0
    )
    dump_sessions(chat, tmp_path / "chat.jsonl")
    return tmp_path / "chat.jsonl"


class Shell:
    """Runs the command against a stub, and notes which turns reached it."""

    def __init__(self, server: Any, folder: Path) -> None:
        self.server, self.folder = server, folder

    async def start(self, *words: object) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "pdcache.cli.main", "replay", *map(str, words),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    async def run(self, *words: object) -> tuple[int, str, str]:
        process = await self.start(*words)
        async with asyncio.timeout(60):
            printed, said = await process.communicate()
        return process.returncode or 0, printed.decode(), said.decode()

    def begin(self, workload: Path) -> tuple[object, ...]:
        return (workload, "--target", self.server.url, "--model", "tiny-random", "--page-size", 4,
                "--concurrency", 2, "--out", self.folder)  # fmt: skip

    def records(self) -> list[dict[str, Any]]:
        return list(read_lines(self.folder / "requests.jsonl"))

    async def wait_for_records(self, count: int) -> None:
        async with asyncio.timeout(60):
            while len(self.records()) < count:
                await asyncio.sleep(0.01)


def with_shell(stub: Any, script: Any, folder: Path, use: Any) -> None:
    async def go() -> None:
        async with stub(script) as server:
            await use(Shell(server, folder))

    asyncio.run(go())


@pytest.fixture
def gated(answer: Any, answer_ids: Any) -> Any:
    """Answers `gate.limit` requests; further ones get a token and then wait."""

    async def script(exchange: Any) -> None:
        script.seen += 1  # type: ignore[attr-defined]
        if script.seen > script.limit:  # type: ignore[attr-defined]
            await exchange.head()
            await exchange.event({"output_ids": [7], "meta_info": {"completion_tokens": 1}})
            await asyncio.Event().wait()
        await answer(exchange, answer_ids(exchange.body))

    script.seen, script.limit = 0, 7  # type: ignore[attr-defined]
    return script


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_client_that_is_ended_loses_no_finished_record_and_goes_on(
    stub: Any, gated: Any, workload: Path, tmp_path: Path, how: signal.Signals
) -> None:
    async def use(shell: Shell) -> None:
        process = await shell.start(*shell.begin(workload))
        await shell.wait_for_records(7)
        process.send_signal(how)
        async with asyncio.timeout(30):
            _, said = await process.communicate()
        before = shell.records()
        assert len(before) == 7
        environment = json.loads((shell.folder / "environment.json").read_text())
        assert environment["complete"] is False
        if how is not signal.SIGKILL:
            assert process.returncode == 130
            assert f"--resume {shell.folder}" in said.decode().replace("\n", "")
        gated.limit = 10**9
        code, printed, said_then = await shell.run("--resume", shell.folder, "--json")
        assert code == 0, said_then
        records = shell.records()
        assert records[:7] == before
        assert Counter((own["session"], own["turn"]) for own in records) == Counter(
            {(f"s{i + 1}", turn + 1): 1 for i in range(SESSIONS) for turn in range(TURNS)}
        )
        assert all(own["error"] is None for own in records)
        assert json.loads(printed)["requests"]["completed"] == SESSIONS * TURNS
        environment = json.loads((shell.folder / "environment.json").read_text())
        assert environment["complete"] is True and len(environment["resumed_at"]) == 1
        assert environment["wall_s"] >= max(own["finished_s"] for own in records)

    with_shell(stub, gated, tmp_path / "run", use)


def test_the_folder_says_what_was_run(
    stub: Any, gated: Any, workload: Path, tmp_path: Path
) -> None:
    async def use(shell: Shell) -> None:
        gated.limit = 10**9
        code, _, said = await shell.run(
            *shell.begin(workload), "--warmup", "2", "--body", "top_k=1"
        )
        assert code == 0, said
        environment = json.loads((shell.folder / "environment.json").read_text())
        assert environment["schema"] == 1 and environment["page_size"] == 4
        assert environment["target"] == shell.server.url and environment["plan"] is None
        spec = environment["spec"]
        assert spec["requests_planned"] == SESSIONS * TURNS
        assert spec["workload"] == str(workload) and len(spec["workload_sha256"]) == 64
        assert spec["body"] == {"top_k": 1} and spec["warmup"] == "2"
        steady = environment["steady_state"]
        first = min(own["sent_s"] for own in shell.records() if not own["warmup"])
        assert steady["from_s"] == pytest.approx(first, abs=0.1)
        assert steady["from_s"] <= steady["to_s"] <= environment["wall_s"]
        assert all(own.body["top_k"] == 1 for own in shell.server.received)
        code, _, said = await shell.run(*shell.begin(workload))
        assert code == 1 and "holds a run already" in said

    with_shell(stub, gated, tmp_path / "run", use)


def test_a_run_goes_on_with_nothing_but_what_it_was_begun_with(
    stub: Any, gated: Any, workload: Path, tmp_path: Path
) -> None:
    async def use(shell: Shell) -> None:
        gated.limit = 10**9
        code, _, said = await shell.run(*shell.begin(workload))
        assert code == 0, said
        code, _, said = await shell.run("--resume", shell.folder, "--concurrency", 3)
        assert code == 1 and "--concurrency" in said
        workload.write_text(workload.read_text().replace('"max_tokens": 6', '"max_tokens": 5'))
        code, _, said = await shell.run("--resume", shell.folder)
        assert code == 1 and "another workload_sha256" in said
        code, _, said = await shell.run("--resume", tmp_path / "nothing")
        assert code == 1 and "environment.json" in said

    with_shell(stub, gated, tmp_path / "run", use)


def test_a_failed_request_ends_in_exit_1_and_is_sent_again(
    stub: Any, answer: Any, answer_ids: Any, workload: Path, tmp_path: Path
) -> None:
    broken = True

    async def script(exchange: Any) -> None:
        if broken and exchange.headers["x-session-id"] == "s3":
            exchange.cut()
        else:
            await answer(exchange, answer_ids(exchange.body))

    async def use(shell: Shell) -> None:
        nonlocal broken
        code, _, said = await shell.run(*shell.begin(workload))
        assert code == 1
        assert "1 of 18 requests failed" in said and "--resume" in said
        assert json.loads((shell.folder / "report.json").read_text())["errors"] == 1
        broken = False
        code, _, said = await shell.run("--resume", shell.folder)
        assert code == 0, said
        assert json.loads((shell.folder / "report.json").read_text())["errors"] == 0

    with_shell(stub, script, tmp_path / "run", use)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "no workload"),
        (("chat.jsonl", "--arrivals", "poisson:1", "--concurrency", "2"), "--concurrency"),
        (("chat.jsonl", "--body", "top_k"), "KEY=JSON"),
        (("chat.jsonl", "--sample", "often"), "as 2s"),
    ],
)
def test_options_that_do_not_fit_are_named(words: tuple[str, ...], says: str) -> None:
    from typer.testing import CliRunner

    from pdcache.cli.main import app
    from pdcache.errors import ReplayError

    done = CliRunner().invoke(app, ["replay", *words])
    assert isinstance(done.exception, ReplayError)
    assert says in str(done.exception)
