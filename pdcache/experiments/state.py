"""What of an experiment is done, in a file that outlives an interruption."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from pdcache.errors import ReplayError
from pdcache.experiments.spec import Experiment

STATE_FILE = "state.json"


@dataclass
class StepState:
    """How a step ended.

    Attributes:
        done: all its runs are there.
        seconds: it took.
        error: what failed, empty when it is done.
        log: the log that tells more.
        log_tail: its last lines.
    """

    done: bool
    seconds: float
    error: str = ""
    log: str = ""
    log_tail: str = ""


@dataclass
class State:
    """The steps that have ended, by name."""

    path: Path
    identity: str
    steps: dict[str, StepState] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, experiment: Experiment, sessions: bytes) -> State:
        """The state in `folder`, empty when nothing was run there.

        Raises:
            ReplayError: it is that of another experiment, or cannot be read.
        """
        path = folder / STATE_FILE
        own = cls(path, _identity(experiment, sessions))
        if not path.is_file():
            return own
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            steps = {name: StepState(**step) for name, step in data["steps"].items()}
            identity = data["identity"]
        except (OSError, ValueError, KeyError, TypeError) as cause:
            raise ReplayError(
                f"the state of the experiment cannot be read: {cause!r}.",
                where=str(path),
                remedy="Give another --out.",
            ) from cause
        if identity != own.identity:
            raise ReplayError(
                "the folder holds the runs of another experiment, or of another version of it.",
                where=str(folder),
                remedy="Give another --out, or remove the folder.",
            )
        own.steps = steps
        return own

    def note(self, name: str, step: StepState) -> None:
        """Keep how a step ended; the file is replaced whole."""
        self.steps[name] = step
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.as_json(), indent=2) + "\n", encoding="utf-8")
        part.replace(self.path)

    def as_json(self) -> dict[str, Any]:
        """The file's content."""
        return {
            "schema": 1,
            "identity": self.identity,
            "steps": {name: asdict(step) for name, step in self.steps.items()},
        }


def _identity(experiment: Experiment, sessions: bytes) -> str:
    """Equal when the same is run: settings, topology files and sessions; not how often."""
    settings = experiment.model_dump(mode="json", exclude={"repetitions", "slo", "timeout_s"})
    text = json.dumps(settings, sort_keys=True).encode()
    files = [cell.topology.read_bytes() for cell in experiment.cells]
    return blake2b(b"\0".join([text, sessions, *files]), digest_size=16).hexdigest()
