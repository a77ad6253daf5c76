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
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Literal, get_args

from pdcache.errors import ReplayError

CacheMode = Literal["prefill_only", "full_offload"]


class CeilingTracker:
    """Remembers the pages of finished requests, each by the hash of itself and all before it."""

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
        self._pages: set[bytes] = set()

    def at_send(self, prompt_ids: Sequence[int]) -> int:
        """Ceiling in tokens of a prompt that is being sent."""
        pages = 0
        for page in self._chain(prompt_ids[: len(prompt_ids) - 1]):
            if page not in self._pages:
                break
            pages += 1
        return pages * self._page_size

    def finished(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> None:
        """Take in a request whose whole answer has arrived."""
        if self._mode == "full_offload":
            self._pages.update(self._chain([*prompt_ids, *answer_ids[:-1]]))
        else:
            self._pages.update(self._chain(prompt_ids))

    def _chain(self, token_ids: Sequence[int]) -> Iterator[bytes]:
        page_hash = b""
        for end in range(self._page_size, len(token_ids) + 1, self._page_size):
            page = array("q", token_ids[end - self._page_size : end])
            page_hash = blake2b(page_hash + page.tobytes(), digest_size=16).digest()
            yield page_hash
