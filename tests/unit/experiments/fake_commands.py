"""Stands in for the commands of an experiment: writes the runs that a cluster would give."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "reports"))

from made_runs import make_run


@dataclass
class FakeCommands:
    """Notes the words of each command; `fails` says which of them exit 1.

    Attributes:
        up: the cluster that runs, as after a real `up` that was not followed by `down`.
        interrupt_at: the number of the command, from 0, at which Ctrl-C comes.
    """

    fails: Callable[[list[str]], bool] = lambda words: False
    interrupt_at: int | None = None
    calls: list[list[str]] = field(default_factory=list)
    up: list[str] = field(default_factory=list)

    def __call__(self, words: Sequence[str], log: Path, limit_s: float) -> int:
        words = list(words)
        self.calls.append(words)
        if self.interrupt_at == len(self.calls) - 1:
            raise KeyboardInterrupt
        log.write_text(f"pdcache {' '.join(words)}\nlast words\n")
        if words[0] == "down":
            self.up.clear()
            return 0
        if self.fails(words):
            return 1
        if words[0] == "up":
            assert not self.up, "a cluster is up already"
            self.up.append(words[1])
            return 0
        make_run(
            Path(words[words.index("--out") + 1]),
            mode="prefill_only" if "prefill_only" in self.up[0] else "full_offload",
            flush="--flush" in words,
            reuse="--no-reuse" not in words,
        )
        return 0

    @property
    def names(self) -> list[str]:
        """First words of all commands."""
        return [words[0] for words in self.calls]
