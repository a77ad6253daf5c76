"""A replay that is cut, by whatever, and taken up again."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from subprocess import Popen
from typing import Any

from pdcache.replay import dump_sessions, generate_chat
from tests.cluster_tools import Shell, wait_for

SESSIONS, TURNS = 4, 4


class CutReplay:
    """Sixteen turns against a cluster, the first of them under way."""

    def __init__(self, shell: Shell, name: str, folder: Path) -> None:
        self.shell, self.out = shell, folder / "run"
        sessions = generate_chat(
            SESSIONS, TURNS, first_words=60, question_words=10, answer_tokens=24, think_s=0.5,
            seed=17,
        )  # fmt: skip
        dump_sessions(sessions, folder / "chats.jsonl")
        self.client: Popen[str] = shell.start(
            "replay", str(folder / "chats.jsonl"), "--target", name, "--out", str(self.out)
        )
        wait_for(lambda: len(self.records()) >= 3, "three answers", limit_s=60)

    def records(self) -> list[dict[str, Any]]:
        """All whole lines so far."""
        file = self.out / "requests.jsonl"
        text = file.read_text() if file.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def resume(self) -> list[dict[str, Any]]:
        """Take it up; all turns have an answer now, and none that had one was asked again."""
        before = self.records()
        assert 3 <= sum(not record["error"] for record in before) < SESSIONS * TURNS
        report = self.shell.json("replay", "--resume", str(self.out))
        after = self.records()
        assert after[: len(before)] == before
        answered = Counter(
            (record["session"], record["turn"]) for record in after if not record["error"]
        )
        assert len(answered) == SESSIONS * TURNS and set(answered.values()) == {1}
        assert report["requests"]["completed"] == SESSIONS * TURNS
        return after
