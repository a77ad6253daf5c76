"""The prompts of a session, one after the other, each as soon as the answer before it is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pdcache.errors import ReplayError
from pdcache.replay.dialogue import ChatTokenizer
from pdcache.replay.sessions import Session, Turn

if TYPE_CHECKING:
    from pdcache.traces.block_tokens import BlockTokens


class Prompt(NamedTuple):
    """One prompt: its tokens, and for a chat endpoint the messages it is made of."""

    ids: list[int]
    messages: tuple[dict[str, str], ...] = ()


class Prompts(Protocol):
    """The prompts of one session."""

    def next(self) -> Prompt:
        """The prompt of the turn that is to be sent."""

    def answered(self, output_ids: Sequence[int], text: str = "") -> None:
        """Go on to the turn after this answer; without its text, that of its tokens is taken."""


class PromptMaker:
    """Makes the prompts of sessions, for a target that takes tokens or one that takes messages."""

    def __init__(self, tokenizer: ChatTokenizer, *, chat: bool = False) -> None:
        self._tokenizer = tokenizer
        self._chat = chat
        self._blocks: dict[int, BlockTokens] = {}

    def check(self, session: Session) -> None:
        """Refuse a session that cannot be sent.

        Raises:
            ReplayError: blocks of a trace are tokens, and a chat endpoint takes texts.
        """
        if self._chat and session.block_size is not None:
            raise ReplayError(
                "blocks of a trace are sent as tokens, which a chat endpoint does not take.",
                where=f"session {session.session}",
                remedy="Use --dialect sglang or openai-completions.",
            )

    def open(self, session: Session) -> Prompts:
        """The prompts of a session, from its first turn on.

        Raises:
            ReplayError: the chat template refuses its texts.
        """
        if session.block_size is not None:
            size = session.block_size
            if size not in self._blocks:
                from pdcache.traces.block_tokens import BlockTokens  # numpy, which few need

                self._blocks[size] = BlockTokens(self._tokenizer.ordinary_ids, size)
            return _OfBlocks(session.turns, self._blocks[size])
        if self._chat:
            return _OfMessages(session, self._tokenizer)
        return _OfTokens(session, self._tokenizer)


class _OfTokens:
    """Each prompt stands on the very tokens sent and received."""

    def __init__(self, session: Session, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids = tokenizer.first_prompt(session.system, _text(session.turns[0]))
        self._between = [tokenizer.between(_text(turn)) for turn in session.turns[1:]]
        self._between.reverse()

    def next(self) -> Prompt:
        return Prompt(self._ids)

    def answered(self, output_ids: Sequence[int], text: str = "") -> None:
        if self._between:
            self._ids = self._tokenizer.join(self._ids, output_ids, self._between.pop())


class _OfMessages:
    """Each prompt is the dialogue as messages; its tokens are those of the chat template."""

    def __init__(self, session: Session, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        self._questions = [_text(turn) for turn in reversed(session.turns)]
        system = [] if session.system is None else [_message("system", session.system)]
        self._messages = [*system, _message("user", self._questions.pop())]

    def next(self) -> Prompt:
        return Prompt(self._tokenizer.prompt(self._messages), tuple(self._messages))

    def answered(self, output_ids: Sequence[int], text: str = "") -> None:
        if self._questions:
            answer = _message("assistant", text or self._tokenizer.text(output_ids))
            self._messages += [answer, _message("user", self._questions.pop())]


class _OfBlocks:
    """Each prompt is whole in the trace; answers are not in it."""

    def __init__(self, turns: Sequence[Turn], tokens: BlockTokens) -> None:
        self._turns = list(reversed(turns))
        self._tokens = tokens

    def next(self) -> Prompt:
        turn = self._turns[-1]
        return Prompt(self._tokens.prompt(turn.blocks or (), turn.input_tokens or 0))

    def answered(self, output_ids: Sequence[int], text: str = "") -> None:
        self._turns.pop()


def _text(turn: Turn) -> str:
    if turn.user is None:
        raise ReplayError(
            "a turn has neither a text nor blocks.",
            where="replay",
            remedy="Give the session a block_size, or its turns texts.",
        )
    return turn.user


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
