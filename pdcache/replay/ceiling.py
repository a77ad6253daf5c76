"""The ceiling: prompt tokens that an unlimited cache could have served.

With pages of P tokens, a request's ceiling is the largest k * P such that

* k * P <= floor((len(prompt) - 1) / P) * P: SGLang computes at least the last prompt token
  anew, since the first logits come from it; and
* prompt[: k * P] is a prefix of some request that had *finished* when this one was sent:
  of its prompt in `prefill_only`, of its prompt + answer[:-1] in `full_offload` (the last
  token sampled is never run through the model, so it has no KV).

It counts across sessions. A request sent while another runs may already see pages of that one,
and pages from before the replay are not known here: hits above the ceiling are possible, and
the ratio of hits to ceiling is reported as it is.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Literal, get_args

from pdcache.errors import ReplayError

CacheMode = Literal["prefill_only", "full_offload"]


class PageChain:
    """The whole pages of a list of tokens that grows at its end.

    Attributes:
        ids: a number of 63 bits for each page, a hash of the page and all before it.
    """

    def __init__(self, page_size: int, token_ids: Sequence[int] = ()) -> None:
        """`page_size` in tokens."""
        self.ids: list[int] = []
        self._page_bytes = 8 * page_size
        self._hash = b""
        self._rest = b""
        self.extend(token_ids)

    def extend(self, token_ids: Sequence[int]) -> None:
        """Put tokens behind the others."""
        data = self._rest + array("q", token_ids).tobytes()
        whole = len(data) - len(data) % self._page_bytes
        for start in range(0, whole, self._page_bytes):
            page = data[start : start + self._page_bytes]
            self._hash = blake2b(self._hash + page, digest_size=16).digest()
            self.ids.append(int.from_bytes(self._hash[:8], "big") >> 1)
        self._rest = data[whole:]


class CeilingTracker:
    """Remembers the pages of finished requests; about 100 bytes of memory a page."""

    def __init__(self, page_size: int, mode: CacheMode) -> None:
        """`page_size` in tokens.

        Raises:
            ReplayError: the page size is under 1 or the mode is unknown.
        """
        if page_size < 1:
            raise ReplayError(
                f"page_size is {page_size}.", remedy="Give the page size of the cluster, in tokens."
            )
        if mode not in get_args(CacheMode):
            raise ReplayError(
                f"the mode {mode!r} is unknown.",
                remedy=f"Give one of {', '.join(get_args(CacheMode))}.",
            )
        self._page_size = page_size
        self._mode = mode
        self._pages: set[int] = set()

    def at_send(self, prompt_pages: Sequence[int], prompt_tokens: int) -> int:
        """Ceiling in tokens of a prompt that is being sent, from the ids of its whole pages."""
        pages = 0
        for page in prompt_pages[: (prompt_tokens - 1) // self._page_size]:
            if page not in self._pages:
                break
            pages += 1
        return pages * self._page_size

    def finished(self, prompt_pages: Iterable[int], answer_pages: Iterable[int]) -> None:
        """Take in a request whose whole answer has arrived.

        `answer_pages` are the whole pages of prompt + answer[:-1] beyond those of the prompt.
        """
        self._pages.update(prompt_pages)
        if self._mode == "full_offload":
            self._pages.update(answer_pages)
