"""Runs aiperf 0.13 without network, on sessions of ours, from a virtual environment of its own.

Four traps, all of aiperf 0.13.0: its worker processes load the tokenizer by a hub id again, so
it is laid out as a Hugging Face cache; output lengths are exact only with `ignore_eos` and the
server's own count of tokens; a finite workload is cycled unless the requests are counted; and
files are left in the temp folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pdcache.models import resolve_model
from pdcache.replay import Session

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / "build" / "aiperf-venv"
PACKAGE = "aiperf==0.13.0"
_HUB_ID = "local/tokenizer"
_REVISION = "0" * 40


def install() -> Path:
    """The `aiperf` program; makes its virtual environment (1.2 GB) when there is none."""
    program = VENV / "bin" / "aiperf"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        subprocess.run([VENV / "bin" / "pip", "install", "-q", PACKAGE], check=True)
    return program


def command(
    url: str,
    sessions: list[Session],
    folder: Path,
    *,
    model: str,
    served_name: str,
    concurrency: int,
    headers: Mapping[str, str],
    extra: Mapping[str, Any],
    rate: float | None = None,
) -> tuple[list[str], dict[str, str]]:
    """Command line and environment of a run over the chat endpoint; results go to `folder`.

    Without a `rate`, the most turns a second, aiperf's timing manager waits for its next turn in a
    loop that takes a core.
    """
    folder.mkdir(parents=True, exist_ok=True)
    workload = folder / "workload.jsonl"
    workload.write_text("".join(f"{json.dumps(_conversation(own))}\n" for own in sessions))
    requests = sum(len(own.turns) for own in sessions)
    words = [
        str(install()), "profile", "--model", served_name, "--url", url,
        "--endpoint-type", "chat", "--streaming", "--tokenizer", _HUB_ID,
        "--input-file", str(workload), "--custom-dataset-type", "multi_turn",
        "--dataset-sampling-strategy", "sequential", "--conversation-num", str(len(sessions)),
        "--request-count", str(requests), "--concurrency", str(concurrency),
        "--use-server-token-count", "--export-level", "records", "--ui", "none",
        "--no-gpu-telemetry", "--no-server-metrics", "--artifact-dir", str(folder / "out"),
        "--extra-inputs", json.dumps({"temperature": 0, "ignore_eos": True, **extra}),
    ]  # fmt: skip
    if rate is not None:
        words += ["--request-rate", str(rate), "--request-rate-mode", "constant"]
    for name, value in headers.items():
        words += ["--header", f"{name}:{value}"]
    home, temp = folder / "hf", folder / "tmp"
    temp.mkdir(exist_ok=True)
    _lay_out(Path(resolve_model(model)), home)
    environment = {
        **os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false", "TMPDIR": str(temp),
    }  # fmt: skip
    return words, environment


@dataclass(frozen=True)
class Measured:
    """What one client says of its requests, in order of their ends; seconds and tokens."""

    ttfts_s: list[float]
    tpots_s: list[float]
    cached_tokens: int
    prompt_tokens: int
    errors: int


def results(folder: Path) -> Measured:
    """What a run wrote."""
    (path,) = (folder / "out").rglob("profile_export.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    whole = [line["metrics"] for line in lines if not line.get("error")]

    def seconds(name: str) -> list[float]:
        return [own[name]["value"] / 1e3 for own in whole if name in own]

    def tokens(name: str) -> int:
        return sum(int(own[name]["value"]) for own in whole if name in own)

    return Measured(
        ttfts_s=seconds("time_to_first_token"),
        tpots_s=seconds("inter_token_latency"),
        cached_tokens=tokens("usage_prompt_cache_read_tokens"),
        prompt_tokens=tokens("usage_prompt_tokens"),
        errors=len(lines) - len(whole),
    )


def _conversation(session: Session) -> dict[str, Any]:
    """A session as aiperf's `multi_turn`; it puts the answers between the questions itself."""
    turns: list[dict[str, Any]] = []
    if session.system is not None:
        turns.append({"role": "system", "text": session.system})
    for turn in session.turns:
        asked: dict[str, Any] = {"text": turn.user, "output_length": turn.max_tokens}
        turns.append(asked | ({"delay": turn.think_s * 1e3} if turn.think_s else {}))
    return {"session_id": session.session, "turns": turns}


def _lay_out(model: Path, home: Path) -> None:
    """A tokenizer as `transformers` finds it offline under a hub id."""
    repository = home / "hub" / f"models--{_HUB_ID.replace('/', '--')}"
    snapshot = repository / "snapshots" / _REVISION
    snapshot.mkdir(parents=True, exist_ok=True)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(_REVISION)
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copy(model / name, snapshot / name)
