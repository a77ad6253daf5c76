"""Sessions of texts as requests whose blocks are pages of tokens."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from hashlib import blake2b

from pdcache.replay.dialogue import ChatTokenizer
from pdcache.replay.sessions import Session
from pdcache.traces.request import TraceRequest


class TextPages:
    """Makes requests of sessions of texts; their blocks are the whole pages of each prompt.

    What a model will answer is not known: an answer is as many tokens as it may have, and they
    are no other answer's.
    """

    def __init__(self, tokenizer: ChatTokenizer, page_size: int) -> None:
        self._tokenizer = tokenizer
        self._page_size = page_size

    def requests(self, session: Session) -> Iterator[TraceRequest]:
        """The session's requests in order.

        Raises:
            ReplayError: the chat template refuses a prompt.
        """
        prompt: list[int] = []
        answer: list[int] = []
        at_s = session.start_s
        for number, turn in enumerate(session.turns):
            assert turn.user is not None
            at_s += turn.think_s
            if number == 0:
                prompt = self._tokenizer.first_prompt(session.system, turn.user)
            else:
                prompt = self._tokenizer.next_prompt(prompt, answer, turn.user)
            yield TraceRequest(at_s, len(prompt), turn.max_tokens, tuple(self._pages(prompt)))
            answer = _answer(f"{session.session}:{number}", turn.max_tokens)

    def _pages(self, prompt: list[int]) -> Iterator[int]:
        digest = b""
        for end in range(self._page_size, len(prompt) + 1, self._page_size):
            page = array("q", prompt[end - self._page_size : end])
            digest = blake2b(digest + page.tobytes(), digest_size=8).digest()
            yield int.from_bytes(digest, "little") >> 1


def _answer(name: str, tokens: int) -> list[int]:
    """Token ids below 0, which no tokeniser gives."""
    first = int.from_bytes(blake2b(name.encode(), digest_size=7).digest(), "little") >> 1
    return list(range(-first - tokens, -first))
