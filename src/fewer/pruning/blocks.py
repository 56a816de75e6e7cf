"""Blocks of neighbouring tokens, and what attention within and between them looks like.

A block is `size` neighbouring columns of a text, whoever of them is still there. Its place in the
text never changes, so a block that lost tokens is the same block with holes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fewer.core.packed import Packed

__all__ = ["MAPS", "Blocks", "diagonal", "whole", "with_first"]


@dataclass(frozen=True)
class Blocks:
    """The tokens of a batch in K blocks, those that have left out of them."""

    size: int
    number: Int[Tensor, "K"]  # text * blocks a row of the caller's grid + block; ascending
    text: Int[Tensor, "K"]
    index: Int[Tensor, "T"]  # the block of each token; of those that have left, any
    there: Bool[Tensor, "K size"]  # which places hold a token
    query: Float[Tensor, "K size H d"]  # scaled by 1 / sqrt(d); 0 where nobody is
    key: Float[Tensor, "K size H d"]
    normaliser: Float[Tensor, "K size H"]  # infinite where nobody is
    presence: Float[Tensor, "K size"]  # how much each key takes part; 0 where nobody is

    @classmethod
    def of(cls, tokens: Packed, size: int) -> Blocks:
        """Lay tokens in blocks, in fp32; they must carry what a policy that measures sees."""
        assert tokens.query is not None
        assert tokens.key is not None
        assert tokens.normaliser is not None
        columns = tokens.grid[1]
        a_row = -(-columns // size)
        number = tokens.sequence * a_row + tokens.slot % columns // size
        alive = slice(None) if tokens.alive is None else tokens.alive
        numbers = torch.unique_consecutive(number[alive])
        index = torch.searchsorted(numbers, number).clamp_max(numbers.numel() - 1)
        place = (index * size + tokens.slot % columns % size)[alive]
        slots = numbers.numel() * size

        def laid(values: Tensor, empty: float = 0.0) -> Tensor:
            rows = values[alive].float()
            start = rows.new_full((slots, *values.shape[1:]), empty)
            found: Tensor = start.index_copy(0, place, rows).unflatten(0, (-1, size))
            return found

        gate = torch.ones_like(tokens.slot) if tokens.gate is None else tokens.gate
        presence = laid(gate)
        return cls(
            size=size,
            number=numbers,
            text=numbers // a_row,
            index=index,
            there=laid(torch.ones_like(tokens.slot)) > 0,
            query=laid(tokens.query) * tokens.query.shape[-1] ** -0.5,
            key=laid(tokens.key),
            normaliser=laid(tokens.normaliser, torch.inf),
            presence=presence,
        )

    def between(
        self, asking: Int[Tensor, "P"], asked: Int[Tensor, "P"]
    ) -> Float[Tensor, "P H size size"]:
        """Attention of the tokens of blocks `asking` to those of blocks `asked`, pair by pair."""
        scores = torch.einsum("pihd,pjhd->phij", self.query[asking], self.key[asked])
        scores = scores - self.normaliser[asking].transpose(1, 2).unsqueeze(-1)
        absent = (self.presence[asked] == 0)[:, None, None]
        exponentials = scores.masked_fill(absent, -torch.inf).exp()
        found: Tensor = exponentials * self.presence[asked][:, None, None]
        return found


# Maps of the wanted blocks, (K2, M, size, size), and of how many pairs of blocks each was made.
Seen = tuple[Float[Tensor, "K2 M size size"], Int[Tensor, "K2"]]


def diagonal(blocks: Blocks, wanted: Int[Tensor, "K2"]) -> Seen:
    """Attention within each of the wanted blocks."""
    return blocks.between(wanted, wanted), torch.ones_like(wanted)


def with_first(blocks: Blocks, wanted: Int[Tensor, "K2"]) -> Seen:
    """Attention within each block, from it to its text's first block, and back.

    The first block holds [CLS] and the question, or its beginning.
    """
    first = torch.searchsorted(blocks.text, blocks.text[wanted])
    pairs = ((wanted, wanted), (wanted, first), (first, wanted))
    return torch.cat([blocks.between(*pair) for pair in pairs], 1), torch.full_like(wanted, 3)


def whole(blocks: Blocks, wanted: Int[Tensor, "K2"]) -> Seen:
    """Attention within each block, from it to all of its text, and from all of its text to it.

    The blocks of the other side are laid upon each other and added up. Costs n^2 a text.
    """
    to_all, from_all = [], []
    for block in wanted.tolist():
        others = (blocks.text == blocks.text[block]).nonzero().squeeze(1)
        own = torch.full_like(others, block)
        to_all.append(blocks.between(own, others).sum(0))
        from_all.append(blocks.between(others, own).sum(0))
    maps = [blocks.between(wanted, wanted), torch.stack(to_all), torch.stack(from_all)]
    others = torch.bincount(blocks.text)[blocks.text[wanted]]
    return torch.cat(maps, 1), 1 + 2 * others


Map = Callable[[Blocks, Tensor], Seen]
# What a predictor may see of attention, and how many maps of each head that is.
MAPS: dict[str, tuple[int, Map]] = {
    "diagonal": (1, diagonal),
    "first": (3, with_first),
    "whole": (3, whole),
}
