"""How many blocks a prompt takes."""

from __future__ import annotations

from pdcache.errors import ReplayError


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
