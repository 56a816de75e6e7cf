"""Which keys a query reads, by where both stood in the text as it came."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

__all__ = ["Anchors", "Pattern"]

# Tokens that read all of their text and are read by all of it.
Anchors = Literal["none", "first", "question", "ends"]


@dataclass(frozen=True)
class Pattern:
    """A rule of few pairs, text by text.

    Columns are cut into blocks of `block`. A query reads the keys whose block is at most `window`
    blocks away from its own, `random` blocks more that are drawn for its block and head, the last
    `summary` columns of every block, and the anchors; an anchor reads and is read by all: the first
    token, the first text of a pair (the question; of a text alone the first token), or the first
    and the last block. Texts of up to `full_up_to` columns read all. Raises `ValueError` for a
    negative number, a block of 0 and a summary longer than a block.
    """

    window: int
    block: int = 1
    random: int = 0
    seed: int = 0  # of the drawn blocks; usually the layer's number
    anchors: Anchors = "none"
    summary: int = 0
    full_up_to: int = 0

    def __post_init__(self) -> None:
        """Refuse what no text can be read by."""
        if min(self.window, self.random, self.summary, self.full_up_to) < 0 or self.block < 1:
            raise ValueError(
                f"got {self}, wanted a block of 1 column or more and no negative number"
            )
        if self.summary > self.block:
            raise ValueError(f"summary is {self.summary} columns of a block of {self.block}")

    @classmethod
    def bigbird(cls, block: int, random: int, layer: int, anchors: Anchors = "ends") -> Pattern:
        """BigBird's pattern of a layer: own and neighbouring blocks, drawn ones, anchors.

        A text that has too few blocks for that is read in full, as in transformers.
        """
        few = (5 + 2 * random) * block
        return cls(1, block, random, seed=layer, anchors=anchors, full_up_to=few)

    @property
    def slides(self) -> bool:
        """Whether each column has a window of its own, rather than one with its block."""
        return self.block == 1 and not self.random

    @property
    def unit(self) -> int:
        """How many neighbouring columns share their keys when a call is cut into short texts."""
        return max(self.window, SMALLEST_UNIT) if self.slides else self.block

    def reach(self, unit: Int[Tensor, "..."]) -> tuple[Tensor, Tensor]:
        """First column in the window of a unit's queries, and the one after the last."""
        side = self.window * self.block
        return unit * self.unit - side, (unit + 1) * self.unit + side

    def drawn(self, blocks: int, heads: int) -> Int[Tensor, "H blocks r"]:
        """Draw the random blocks that each block of a text of `blocks` blocks reads.

        They lie outside the window and outside the end blocks where these are anchors; -1 where
        there are not so many. The same for every text of as many blocks.
        """
        return _drawn(self, blocks, heads)


SMALLEST_UNIT = 64  # columns; shorter pieces cost more to gather than they save


@lru_cache(maxsize=512)
@torch.inference_mode(False)
def _drawn(pattern: Pattern, blocks: int, heads: int) -> Tensor:
    at = torch.arange(blocks)
    taken = (at[:, None] - at).abs() <= pattern.window  # (blocks, blocks)
    if pattern.anchors == "ends":
        taken[:, [0, -1]] = True
    generator = torch.Generator().manual_seed(pattern.seed * 1_000_003 + blocks)
    lots = torch.rand(heads, blocks, blocks, generator=generator).masked_fill_(taken, -1.0)
    few = min(pattern.random, blocks)
    chance, found = lots.topk(few, dim=-1)
    found = found.masked_fill(chance < 0, -1)
    return torch.nn.functional.pad(found, (0, pattern.random - few), value=-1)
