"""Sparse attention patterns: which keys a query reads, by their columns in the original text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

__all__ = ["Anchors", "Pattern"]

# Global tokens: they read all of their text and all of it reads them.
Anchors = Literal["none", "first", "question", "ends"]


@dataclass(frozen=True)
class Pattern:
    """A sparse attention pattern, applied to each text.

    Columns are cut into blocks of `block`. A query reads the keys whose block is at most `window`
    blocks away from its own, `random` more blocks drawn per block and head, the last `summary`
    columns of every block, and the global tokens (`anchors`), which read all keys and which all
    queries read: the first token, the first text of a pair (the question; the first token of a
    single text), or the first and the last block. Texts of up to `full_up_to` columns have full
    attention. Raises `ValueError` for a negative number, a block of 0 and a summary longer than a
    block.
    """

    window: int
    block: int = 1
    random: int = 0
    seed: int = 0  # of the random blocks; usually the layer index
    anchors: Anchors = "none"
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
    def bigbird(cls, block: int, random: int, layer: int, anchors: Anchors = "ends") -> Pattern:
        """BigBird's pattern of a layer: its own, neighbouring and random blocks, global tokens.

        A text of too few blocks has full attention, as in transformers.
        """
        full_up_to = (5 + 2 * random) * block
        return cls(1, block, random, seed=layer, anchors=anchors, full_up_to=full_up_to)

    @property
    def slides(self) -> bool:
        """Whether the window slides with each column, rather than with each block."""
        return self.block == 1 and not self.random

    @property
    def unit(self) -> int:
        """Neighbouring columns that share their keys when a call is cut into chunks."""
        return max(self.window, SMALLEST_UNIT) if self.slides else self.block

    def reach(self, unit: Int[Tensor, "..."]) -> tuple[Tensor, Tensor]:
        """Return the first column in the window of a unit's queries, and the end column."""
        side = self.window * self.block
        return unit * self.unit - side, (unit + 1) * self.unit + side

    def draw_blocks(self, blocks: int, heads: int) -> Int[Tensor, "H blocks r"]:
        """Draw the random blocks that each block of a text of `blocks` blocks reads.

        They lie outside the window, and outside the end blocks where these are global; -1 fills
        up where there are fewer. Equal for all texts of the same number of blocks.
        """
        return _draw_blocks(self, blocks, heads)


SMALLEST_UNIT = 64  # columns; gathering shorter chunks costs more than it saves


@lru_cache(maxsize=512)
@torch.inference_mode(False)
def _draw_blocks(pattern: Pattern, blocks: int, heads: int) -> Tensor:
    index = torch.arange(blocks)
    excluded = (index[:, None] - index).abs() <= pattern.window  # (blocks, blocks)
    if pattern.anchors == "ends":
        excluded[:, [0, -1]] = True
    generator = torch.Generator().manual_seed(pattern.seed * 1_000_003 + blocks)
    lots = torch.rand(heads, blocks, blocks, generator=generator).masked_fill_(excluded, -1.0)
    count = min(pattern.random, blocks)
    values, indices = lots.topk(count, dim=-1)
    indices = indices.masked_fill(values < 0, -1)
    return torch.nn.functional.pad(indices, (0, pattern.random - count), value=-1)
