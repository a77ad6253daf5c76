"""Sessions as data: JSONL, one session a line.

    {"session": "s1", "system": "...", "start_s": 0.0, "turns": [
        {"user": "...", "max_tokens": 128, "think_s": 1.0}, ...]}
    {"session": "t1", "start_s": 3.0, "block_size": 512, "turns": [
        {"blocks": [0, 7, 8], "input_tokens": 1100, "max_tokens": 128}, ...]}

A session is made of texts, or of the content ids that a trace has in place of texts. `system`,
`start_s` and `think_s` may be absent.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pdcache.errors import ReplayError
from pdcache.replay.fields import content_ids, json_object, refuse_unknown, seconds, text, whole

_SESSION_KEYS = ("session", "system", "start_s", "block_size", "turns")
_TEXT_KEYS = ("user", "max_tokens", "think_s")
_BLOCK_KEYS = ("blocks", "input_tokens", "max_tokens", "think_s")
_EXAMPLE = '{"session": "s1", "turns": [{"user": "...", "max_tokens": 128}]}'


@dataclass(frozen=True)
class Turn:
    """One question: a text put on top of the dialogue, or a whole prompt as content ids.

    Attributes:
        user: the text; None when the turn has blocks.
        max_tokens: tokens of the answer, at least 1.
        think_s: seconds between the previous answer (for the first turn: the start of the
            session) and this question.
        blocks: content ids of the whole prompt, in blocks of the session's `block_size`; equal
            ids are equal tokens. The last block may be partly filled.
        input_tokens: tokens of the whole prompt; it takes exactly len(blocks) blocks.
    """

    user: str | None
    max_tokens: int
    think_s: float = 0.0
    blocks: tuple[int, ...] | None = None
    input_tokens: int | None = None


@dataclass(frozen=True)
class Session:
    """One dialogue: its turns follow each other.

    Attributes:
        session: its name; it travels in HTTP headers, so printable ASCII.
        turns: at least one; all with a text, or all with blocks.
        system: the system prompt, None for none and with blocks.
        start_s: seconds from the start of the replay before which it does not begin.
        block_size: tokens a block of its trace, which is apart from the page size of a cluster;
            None for a session of texts.
    """

    session: str
    turns: tuple[Turn, ...]
    system: str | None = None
    start_s: float = 0.0
    block_size: int | None = None


def load_sessions(path: str | Path) -> list[Session]:
    """Read sessions from a JSONL file; blank lines are skipped.

    Raises:
        ReplayError: naming file:line, the key and the remedy.
    """
    sessions = list(read_sessions(path))
    if not sessions:
        raise ReplayError(
            "there is no session.", where=str(path), remedy="Write at least one line."
        )
    return sessions


def read_sessions(path: str | Path) -> Iterator[Session]:
    """As `load_sessions`, one session at a time; an empty file gives none."""
    names: set[str] = set()
    for number, line in _lines(Path(path)):
        where = f"{path}:{number}"
        session = parse_session(json_object(line, where, _EXAMPLE), where)
        if session.session in names:
            raise ReplayError(
                f"'session': the name {session.session!r} is taken by an earlier line.",
                where=where,
                remedy="Give every session a name of its own.",
            )
        names.add(session.session)
        yield session


def dump_sessions(sessions: Iterable[Session], path: str | Path) -> None:
    """Write sessions as JSONL, one at a time; `load_sessions` reads the same sessions back."""
    with Path(path).open("w", encoding="utf-8", newline="\n") as file:
        for session in sessions:
            file.write(json.dumps(_as_json(session), ensure_ascii=False) + "\n")


def parse_session(line: Mapping[str, Any], where: str) -> Session:
    """A session from the object of its line; `where` is file:line.

    Raises:
        ReplayError: naming `where`, the key and the remedy.
    """
    refuse_unknown(line, _SESSION_KEYS, where)
    name = text(line, "session", where)
    if not name.isascii() or not name.isprintable() or name != name.strip():
        raise ReplayError(
            f"'session': {name!r} cannot travel in an HTTP header.",
            where=where,
            remedy="Use printable ASCII without blanks around it.",
        )
    turns = line.get("turns")
    if not isinstance(turns, list) or not turns:
        raise ReplayError("'turns' is not a list of turns.", where=where, remedy=f"As {_EXAMPLE}.")
    block_size = None
    if line.get("block_size") is not None:
        block_size = whole(line, "block_size", where, "the tokens of a block")
    session = Session(
        session=name,
        system=None if line.get("system") is None else text(line, "system", where),
        start_s=seconds(line, "start_s", where),
        block_size=block_size,
        turns=tuple(
            _turn(turn, block_size, f"{where}: turns[{index}]") for index, turn in enumerate(turns)
        ),
    )
    if session.system is not None and block_size is not None:
        raise ReplayError(
            "'system' stands beside 'block_size'.",
            where=where,
            remedy="Leave out 'system': blocks are the whole prompt.",
        )
    return session


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except (OSError, UnicodeDecodeError) as cause:
        raise ReplayError(
            f"cannot read the sessions: {cause}.",
            where=str(path),
            remedy="Give a readable JSONL file, one session a line.",
        ) from cause


def _turn(turn: Any, block_size: int | None, where: str) -> Turn:
    if not isinstance(turn, dict):
        raise ReplayError(
            "the turn is not an object.",
            where=where,
            remedy='Write {"user": "...", "max_tokens": 128}.',
        )
    refuse_unknown(turn, _TEXT_KEYS if block_size is None else _BLOCK_KEYS, where)
    max_tokens = whole(turn, "max_tokens", where, "the tokens of the answer")
    think_s = seconds(turn, "think_s", where)
    if block_size is None:
        return Turn(text(turn, "user", where), max_tokens, think_s)
    blocks = content_ids(turn, "blocks", where)
    input_tokens = whole(turn, "input_tokens", where, "the tokens of the whole prompt")
    check_blocks(len(blocks), input_tokens, block_size, where)
    return Turn(None, max_tokens, think_s, blocks, input_tokens)


def check_blocks(blocks: int, input_tokens: int, block_size: int, where: str | None = None) -> None:
    """Refuse a prompt of `input_tokens` that does not take exactly `blocks` blocks.

    Raises:
        ReplayError: saying how many it takes.
    """
    takes = -(-input_tokens // block_size)
    if blocks != takes:
        raise ReplayError(
            f"{input_tokens} tokens take {takes} blocks of {block_size}, not {blocks}.",
            where=where,
            remedy="Give the block size of the trace, and an id for each block of the prompt.",
        )


def _as_json(session: Session) -> dict[str, Any]:
    line: dict[str, Any] = {"session": session.session}
    if session.system is not None:
        line["system"] = session.system
    if session.start_s:
        line["start_s"] = session.start_s
    if session.block_size is not None:
        line["block_size"] = session.block_size
    line["turns"] = [_turn_as_json(turn) for turn in session.turns]
    return line


def _turn_as_json(turn: Turn) -> dict[str, Any]:
    what: dict[str, Any] = (
        {"user": turn.user}
        if turn.blocks is None
        else {"blocks": turn.blocks, "input_tokens": turn.input_tokens}
    )
    what["max_tokens"] = turn.max_tokens
    return what | ({"think_s": turn.think_s} if turn.think_s else {})
