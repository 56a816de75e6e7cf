"""Sparse attention patterns: which keys a query reads, by their columns in the original text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

__all__ = ["GlobalTokenRule", "Pattern"]

# Global tokens: they read all of their text and all of it reads them.
GlobalTokenRule = Literal["none", "first", "question", "ends"]


@dataclass(frozen=True)
class Pattern:
    """A sparse attention pattern, applied to each text.

    Columns are cut into blocks of `block`. A query reads the keys whose block is at most `window`
    blocks away from the query's, `random` more blocks drawn per block and head, the last `summary`
    columns of every block, and the `global_tokens`, which read all keys and which all queries read:
    the first token, the first text of a pair (the question; the first token of a single text), or
    the first and the last block. Texts of up to `full_up_to` columns have full attention.

    Raises `ValueError` for a negative number, a block of 0 and a summary longer than a block.
    """

    window: int
    block: int = 1
    random: int = 0
    seed: int = 0  # of the random blocks; usually the layer index
    global_tokens: GlobalTokenRule = "none"
    summary: int = 0
    full_up_to: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if min(self.window, self.random, self.summary, self.full_up_to) < 0 or self.block < 1:
            raise ValueError(
                f"block must be 1 or more, and no number of a pattern negative; got {self}."
            )
        if self.summary > self.block:
            raise ValueError(f"summary must be at most block ({self.block}); got {self.summary}.")

    @classmethod
    def bigbird(
        cls, block: int, random: int, layer: int, global_tokens: GlobalTokenRule = "ends"
    ) -> Pattern:
        """BigBird's pattern of a layer: the query's block, its neighbours, random and global ones.

        A text of too few blocks has full attention, as in transformers.
        """
        full_up_to = (5 + 2 * random) * block
        return cls(1, block, random, seed=layer, global_tokens=global_tokens, full_up_to=full_up_to)

    @property
    def has_sliding_window(self) -> bool:
        """Whether the window slides with each column, rather than with each block."""
        return self.block == 1 and not self.random

    @property
    def is_window(self) -> bool:
        """Whether it is a sliding window alone, for texts of any length."""
        return (
            self.has_sliding_window
            and self.global_tokens == "none"
            and not (self.summary or self.full_up_to)
        )

    @property
    def chunk_size(self) -> int:
        """Number of neighbouring columns that share their keys in one chunk."""
        return max(self.window, MIN_CHUNK_SIZE) if self.has_sliding_window else self.block

    def window_bounds(self, chunk: Int[Tensor, "..."]) -> tuple[Tensor, Tensor]:
        """Return the first column in the window of a chunk's queries, and the end column."""
        margin = self.window * self.block
        return chunk * self.chunk_size - margin, (chunk + 1) * self.chunk_size + margin

    def draw_blocks(self, blocks: int, heads: int) -> Int[Tensor, "H blocks r"]:
        """Draw the random blocks that each block of a text of `blocks` blocks reads.

        They lie outside the window, and outside the end blocks where these are global; -1 fills
        up where there are fewer. Equal for all texts of the same number of blocks.
        """
        return _draw_blocks(self, blocks, heads)


MIN_CHUNK_SIZE = 64  # columns; gathering shorter chunks costs more than it saves


@lru_cache(maxsize=512)
@torch.inference_mode(False)
def _draw_blocks(pattern: Pattern, blocks: int, heads: int) -> Tensor:
    index = torch.arange(blocks)
    excluded = (index[:, None] - index).abs() <= pattern.window  # (blocks, blocks)
    if pattern.global_tokens == "ends":
        excluded[:, [0, -1]] = True
    generator = torch.Generator().manual_seed(pattern.seed * 1_000_003 + blocks)
    draws = torch.rand(heads, blocks, blocks, generator=generator).masked_fill_(excluded, -1.0)
    count = min(pattern.random, blocks)
    values, indices = draws.topk(count, dim=-1)
    indices = indices.masked_fill(values < 0, -1)
    return torch.nn.functional.pad(indices, (0, pattern.random - count), value=-1)
