"""Tokens for the content ids of a trace, the same in every run and process."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import shake_128

import numpy as np

from pdcache.errors import ReplayError
from pdcache.replay.sessions import check_blocks

# A draw of 4 bytes reaches every token of any vocabulary with next to the same probability.
_BYTES = 4


class BlockTokens:
    """Makes prompts of a model's ordinary tokens.

    A block's tokens are drawn by SHAKE-128 of its id: equal ids give equal tokens, whatever was
    asked before; unequal ids differ, but for a chance of len(token_ids) ** -block_size.
    """

    def __init__(self, token_ids: Sequence[int], block_size: int, seed: int = 0) -> None:
        """`token_ids` may occur in a prompt; `block_size` is the trace's own, in tokens.

        Raises:
            ReplayError: there are fewer than two tokens to choose from, or a block has none.
        """
        self._token_ids = np.unique(np.asarray(token_ids, dtype=np.int64))
        if len(self._token_ids) < 2:
            raise ReplayError(
                "fewer than two tokens are left to make prompts of.",
                where="token_ids",
                remedy="Give the ordinary tokens of the model.",
            )
        if block_size < 1:
            raise ReplayError(
                f"block_size is {block_size}.",
                where="block_size",
                remedy="Give the tokens of a block of the trace.",
            )
        self._block_size = block_size
        self._seed = seed

    def prompt(self, blocks: Sequence[int], input_tokens: int) -> list[int]:
        """The first `input_tokens` tokens of the given blocks, one after the other.

        Raises:
            ReplayError: `input_tokens` do not take exactly these blocks.
        """
        check_blocks(len(blocks), input_tokens, self._block_size)
        size = self._block_size * _BYTES
        drawn = b"".join(shake_128(b"%d:%d" % (self._seed, block)).digest(size) for block in blocks)
        choice = np.frombuffer(drawn, dtype="<u4")[:input_tokens] % len(self._token_ids)
        tokens: list[int] = self._token_ids[choice].tolist()
        return tokens
