"""A dialogue in tokens.

An answer that is decoded to text and tokenised again may come back as other tokens, and then
the KV of every page behind that point is lost. Here the next prompt is made of the very tokens
sent and received, so a miss is the cache's and never the tokeniser's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from pdcache.errors import ReplayError
from pdcache.replay.chat_template import ChatTemplate

_ANSWER = "pdcacheAnswerStandsHere"


class ChatTokenizer:
    """A model's tokeniser and chat template."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate) -> None:
        self._tokenizer = tokenizer
        self._template = template
        tokenizer.no_truncation()
        tokenizer.no_padding()
        added = tokenizer.get_added_tokens_decoder()
        self._added = frozenset(added)
        self._special_ids = frozenset(key for key, token in added.items() if token.special)

    @classmethod
    def from_folder(cls, folder: str | Path) -> ChatTokenizer:
        """Read `tokenizer.json` and the chat template of a model folder.

        Raises:
            ReplayError: one of them is missing or broken.
        """
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise ReplayError(
                "there is no tokenizer.json.",
                where=str(folder),
                remedy="Give the folder of the model that the cluster serves.",
            )
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as cause:  # tokenizers raises bare Exception
            raise ReplayError(
                f"the tokeniser cannot be read: {cause}.",
                where=str(path),
                remedy="Fetch the model again.",
            ) from cause
        return cls(tokenizer, ChatTemplate.from_folder(Path(folder)))

    @property
    def ordinary_ids(self) -> list[int]:
        """The tokens of the vocabulary that mean text: none of the added ones."""
        return sorted(
            set(self._tokenizer.get_vocab(with_added_tokens=False).values()) - self._added
        )

    def ids(self, text: str) -> tuple[int, ...]:
        """Tokens of an answer that came as text; they may not be those that were sampled."""
        return tuple(self._encode(text)) if text else ()

    def text(self, token_ids: Sequence[int]) -> str:
        """Text of an answer, without special tokens."""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=True)

    def prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Tokens of a dialogue as a chat endpoint makes them of its messages.

        Raises:
            ReplayError: the chat template refuses it.
        """
        return self._encode(self._template.render([dict(message) for message in messages]))

    def first_prompt(self, system: str | None, user: str) -> list[int]:
        """Tokens of a dialogue's first prompt.

        Raises:
            ReplayError: the chat template refuses it.
        """
        messages = [{"role": "system", "content": system}] if system is not None else []
        return self.prompt([*messages, _user(user)])

    def between(self, user: str) -> list[int]:
        """Tokens that stand between an answer and the answer to `user`.

        They depend on neither what came before nor the answer.

        Raises:
            ReplayError: the chat template does not show the answer it is given.
        """
        answer = {"role": "assistant", "content": _ANSWER}
        text = self._template.render([_user("Hello."), answer, _user(user)])
        _, shown, behind = text.partition(_ANSWER)
        if not shown:
            raise ReplayError(
                "the chat template drops earlier answers from the prompt.",
                remedy="Use a model whose template keeps the dialogue.",
            )
        return self._encode(behind)

    def next_prompt(
        self, previous_ids: Sequence[int], answer_ids: Sequence[int], user: str
    ) -> list[int]:
        """Tokens of the prompt after `answer_ids`; starts with previous_ids + answer_ids.

        Raises:
            ReplayError: as `between`.
        """
        return self.join(previous_ids, answer_ids, self.between(user))

    def join(
        self, previous_ids: Sequence[int], answer_ids: Sequence[int], between: Sequence[int]
    ) -> list[int]:
        """`next_prompt` with the tokens of `between` at hand.

        An end of turn that the answer already holds is not repeated.
        """
        ended = (
            len(answer_ids) > 0
            and len(between) > 0
            and answer_ids[-1] == between[0]
            and between[0] in self._special_ids
        )
        return [*previous_ids, *answer_ids, *(between[1:] if ended else between)]

    def _encode(self, text: str) -> list[int]:
        # The template writes the special tokens itself.
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}
