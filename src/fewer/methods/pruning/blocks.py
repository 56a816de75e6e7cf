"""Blocks of neighbouring tokens, and what attention within and between them looks like.

A block is `size` neighbouring columns of a text, whoever of them is still there. Its place in the
text never changes, so a block that lost tokens is the same block with holes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fewer.core.packed import Packed

__all__ = ["SIGHTS", "Blocks", "Sight", "paired", "whole"]


@dataclass(frozen=True)
class Blocks:
    """The tokens of a batch in K blocks, those that have left out of them."""

    tokens: Packed
    size: int
    number: Int[Tensor, "K"]  # text * blocks a row of the caller's grid + block; ascending
    text: Int[Tensor, "K"]
    index: Int[Tensor, "T"]  # the block of each token; of those that have left, any
    rows: Int[Tensor, "K size"]  # the token at each place, -1 where nobody is

    @classmethod
    def of(cls, tokens: Packed, size: int) -> Blocks:
        """Lay tokens in blocks."""
        columns = tokens.grid[1]
        a_row = -(-columns // size)
        column = tokens.slot % columns
        number = tokens.sequence * a_row + column // size
        alive = torch.arange(len(number), device=number.device)
        alive = alive if tokens.alive is None else alive[tokens.alive]
        numbers = torch.unique_consecutive(number[alive])
        index = torch.searchsorted(numbers, number).clamp_max(len(numbers) - 1)
        place = (index * size + column % size)[alive]
        empty = number.new_full((len(numbers) * size,), -1)
        rows = empty.index_copy(0, place, alive).view(-1, size)
        return cls(tokens, size, numbers, numbers // a_row, index, rows)

    @cached_property
    def passage(self) -> Int[Tensor, "Tp"]:
        """The tokens that may leave."""
        tokens = self.tokens
        found = ~tokens.protected if tokens.alive is None else tokens.alive & ~tokens.protected
        return found.nonzero().squeeze(1)

    @cached_property
    def question(self) -> Int[Tensor, "Tq"]:
        """The tokens that never leave, of texts where any may."""
        tokens = self.tokens
        asked = torch.zeros(tokens.grid[0], dtype=torch.bool, device=self.index.device)
        asked = asked.index_fill(0, tokens.sequence[self.passage], True)
        found = asked[tokens.sequence] & tokens.protected
        found = found if tokens.alive is None else found & tokens.alive
        return found.nonzero().squeeze(1)

    def between(
        self, asking: Int[Tensor, "P"], asked: Int[Tensor, "P"]
    ) -> Float[Tensor, "P H size size"]:
        """Attention of the tokens of blocks `asking` to those of blocks `asked`, pair by pair.

        0 for pairs of tokens that the layer did not read.
        """
        query, key, logsumexp, presence = self._laid
        scores = torch.einsum("pihd,pjhd->phij", query[asking], key[asked])
        scores = scores - logsumexp[asking].transpose(1, 2).unsqueeze(-1)
        absent = (presence[asked] == 0)[:, None, None]
        if self.tokens.pairs is not None:  # places of nobody count as anyone: they are 0 anyway
            absent = absent | ~self.tokens.pairs.create_mask(self.rows[asking], self.rows[asked])
        exponentials = scores.masked_fill(absent, -torch.inf).exp()
        found: Tensor = exponentials * presence[asked][:, None, None]
        return found

    @cached_property
    def _laid(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Scaled queries, keys, normalisers, presence `(K, size, ...)` in fp32; 0, infinite, 0."""
        tokens = self.tokens
        query, key, logsumexp = tokens.asking
        gate = torch.ones_like(tokens.slot) if tokens.gate is None else tokens.gate
        scaled = self._lay(query) * query.shape[-1] ** -0.5
        return scaled, self._lay(key), self._lay(logsumexp, torch.inf), self._lay(gate)

    def _lay(self, values: Tensor, empty: float = 0.0) -> Tensor:
        there = self.rows.flatten() >= 0
        rows = values[self.rows.flatten()[there]].float()
        start = rows.new_full((self.rows.numel(), *values.shape[1:]), empty)
        laid = start.index_copy(0, there.nonzero().squeeze(1), rows)
        found: Tensor = laid.unflatten(0, (-1, self.size))
        return found


def paired(blocks: Blocks, pairs: Int[Tensor, "P M 2"]) -> Float[Tensor, "P M*H size size"]:
    """Attention of M pairs of blocks, side by side."""
    asking, asked = pairs.flatten(0, 1).unbind(1)
    found: Tensor = blocks.between(asking, asked).unflatten(0, pairs.shape[:2]).flatten(1, 2)
    return found


def whole(blocks: Blocks, wanted: Int[Tensor, "P"]) -> Float[Tensor, "P 3*H size size"]:
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
    return torch.cat(maps, 1)


def _own(blocks: Blocks, wanted: Tensor) -> Tensor:
    return torch.stack((wanted, wanted), -1)[:, None]


def _with_first(blocks: Blocks, wanted: Tensor) -> Tensor:
    first = torch.searchsorted(blocks.text, blocks.text[wanted])
    pairs = ((wanted, wanted), (wanted, first), (first, wanted))
    return torch.stack([torch.stack(pair, -1) for pair in pairs], 1)


@dataclass(frozen=True)
class Sight:
    """What a predictor may see of attention: so many maps a head."""

    count: int
    # of which pairs of blocks each of a block's maps is; None: of all of its text
    pairs: Callable[[Blocks, Tensor], Tensor] | None

    def looked(self, blocks: Blocks, wanted: Int[Tensor, "P"]) -> Int[Tensor, "P"]:
        """Count the pairs of blocks that each wanted block's maps are made of."""
        if self.pairs is None:
            return 1 + 2 * torch.bincount(blocks.text)[blocks.text[wanted]]
        return torch.full_like(wanted, self.count)

    def see(self, blocks: Blocks, wanted: Int[Tensor, "P"]) -> Float[Tensor, "P count*H size size"]:
        """Form the maps of the wanted blocks."""
        if self.pairs is None:
            return whole(blocks, wanted)
        return paired(blocks, self.pairs(blocks, wanted))


SIGHTS: dict[str, Sight] = {
    "diagonal": Sight(1, _own),  # attention within the block
    # and from it to its text's first block, which holds [CLS] and the question, and back
    "first": Sight(3, _with_first),
    "whole": Sight(3, None),  # and from it to all of its text, and back
}
