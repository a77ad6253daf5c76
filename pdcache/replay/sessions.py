"""Sessions as data: JSONL, one session a line.

    {"session": "s1", "system": "...", "start_s": 0.0, "turns": [
        {"user": "...", "max_tokens": 128, "think_s": 1.0}, ...]}

`system`, `start_s` and `think_s` may be absent.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pdcache.errors import ReplayError

_SESSION_KEYS = ("session", "system", "start_s", "turns")
_TURN_KEYS = ("user", "max_tokens", "think_s")


@dataclass(frozen=True)
class Turn:
    """One question of a user.

    Attributes:
        user: the text.
        max_tokens: tokens of the answer, at least 1.
        think_s: seconds between the previous answer (for the first turn: the start of the
            session) and this question.
    """

    user: str
    max_tokens: int
    think_s: float = 0.0


@dataclass(frozen=True)
class Session:
    """One dialogue: its turns follow each other, each on top of all before it.

    Attributes:
        session: its name; it travels in HTTP headers, so printable ASCII.
        turns: at least one.
        system: the system prompt, None for none.
        start_s: seconds from the start of the replay before which it does not begin.
    """

    session: str
    turns: tuple[Turn, ...]
    system: str | None = None
    start_s: float = 0.0


def load_sessions(path: str | Path) -> list[Session]:
    """Read sessions from a JSONL file; blank lines are skipped.

    Raises:
        ReplayError: naming file:line, the key and the remedy.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as cause:
        raise ReplayError(
            f"cannot read the sessions: {cause}.",
            where=str(path),
            remedy="Give a readable JSONL file, one session a line.",
        ) from cause
    sessions: dict[str, Session] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        session = _session(_object(line, where), where)
        if session.session in sessions:
            raise ReplayError(
                f"'session': the name {session.session!r} is taken by an earlier line.",
                where=where,
                remedy="Give every session a name of its own.",
            )
        sessions[session.session] = session
    if not sessions:
        raise ReplayError(
            "there is no session.", where=str(path), remedy="Write at least one line."
        )
    return list(sessions.values())


def dump_sessions(sessions: Iterable[Session], path: str | Path) -> None:
    """Write sessions as JSONL; `load_sessions` reads the same sessions back."""
    lines = [json.dumps(_as_json(session), ensure_ascii=False) for session in sessions]
    Path(path).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _as_json(session: Session) -> dict[str, Any]:
    line: dict[str, Any] = {"session": session.session}
    if session.system is not None:
        line["system"] = session.system
    if session.start_s:
        line["start_s"] = session.start_s
    line["turns"] = [
        {"user": turn.user, "max_tokens": turn.max_tokens}
        | ({"think_s": turn.think_s} if turn.think_s else {})
        for turn in session.turns
    ]
    return line


def _object(line: str, where: str) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as cause:
        raise ReplayError(
            f"the line is not JSON: {cause}.", where=where, remedy="Write one JSON object a line."
        ) from cause
    if not isinstance(value, dict):
        raise ReplayError(
            "the line is not a JSON object.",
            where=where,
            remedy='Write {"session": ..., "turns": [...]}.',
        )
    return value


def _session(line: Mapping[str, Any], where: str) -> Session:
    _refuse_unknown(line, _SESSION_KEYS, where)
    name = _text(line, "session", where)
    if not name.isascii() or not name.isprintable() or name != name.strip():
        raise ReplayError(
            f"'session': {name!r} cannot travel in an HTTP header.",
            where=where,
            remedy="Use printable ASCII without blanks around it.",
        )
    turns = line.get("turns")
    if not isinstance(turns, list) or not turns:
        raise ReplayError(
            "'turns' is not a list of turns.",
            where=where,
            remedy='Write "turns": [{"user": "...", "max_tokens": 128}].',
        )
    return Session(
        session=name,
        system=None if line.get("system") is None else _text(line, "system", where),
        start_s=_seconds(line, "start_s", where),
        turns=tuple(_turn(turn, f"{where}: turns[{i}]") for i, turn in enumerate(turns)),
    )


def _turn(turn: Any, where: str) -> Turn:
    if not isinstance(turn, dict):
        raise ReplayError(
            "the turn is not an object.",
            where=where,
            remedy='Write {"user": "...", "max_tokens": 128}.',
        )
    _refuse_unknown(turn, _TURN_KEYS, where)
    max_tokens = turn.get("max_tokens")
    if not isinstance(max_tokens, int) or isinstance(max_tokens, bool) or max_tokens < 1:
        raise ReplayError(
            f"'max_tokens' is {_shown(turn, 'max_tokens')}.",
            where=where,
            remedy="Give the tokens of the answer, a whole number from 1.",
        )
    return Turn(_text(turn, "user", where), max_tokens, _seconds(turn, "think_s", where))


def _text(of: Mapping[str, Any], key: str, where: str) -> str:
    value = of.get(key)
    if not isinstance(value, str) or not value:
        raise ReplayError(
            f"'{key}' is {_shown(of, key)}.", where=where, remedy=f"Give '{key}' a text."
        )
    return value


def _seconds(of: Mapping[str, Any], key: str, where: str) -> float:
    value = of.get(key, 0.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise ReplayError(
            f"'{key}' is {_shown(of, key)}.", where=where, remedy="Give seconds, 0 or more."
        )
    return float(value)


def _shown(of: Mapping[str, Any], key: str) -> str:
    return repr(of[key]) if key in of else "missing"


def _refuse_unknown(of: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in of:
        if key in known:
            continue
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
        raise ReplayError(
            f"the key '{key}' is unknown.",
            where=where,
            remedy=f"Did you mean '{near[0]}'? Known keys: {', '.join(known)}.",
        )
