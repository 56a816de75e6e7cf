"""Blocks of neighbouring tokens, and what attention within and between them looks like.

A block is `size` neighbouring columns of a text, pruned tokens included. Its place in the text
never changes, so a block that lost tokens is the same block with holes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fewer.core.evidence import Evidence
from fewer.core.packed import Packed

__all__ = ["SCOPES", "AttentionScope", "Blocks", "full_attention", "pair_attention"]


@dataclass(frozen=True)
class Blocks:
    """The tokens of a batch in K blocks, without pruned tokens."""

    tokens: Packed
    evidence: Evidence
    size: int
    number: Int[Tensor, "K"]  # text * blocks per row of the caller's grid + block; ascending
    text: Int[Tensor, "K"]
    index: Int[Tensor, "T"]  # the block of each token; of pruned tokens, any
    rows: Int[Tensor, "K size"]  # the token at each place, -1 where there is none

    @classmethod
    def of(cls, tokens: Packed, evidence: Evidence, size: int) -> Blocks:
        """Lay tokens in blocks."""
        per_row = -(-tokens.grid[1] // size)
        column = tokens.placement.column
        number = tokens.sequence * per_row + column // size
        alive = torch.arange(len(number), device=number.device)
        alive = alive if tokens.alive is None else alive[tokens.alive]
        numbers = torch.unique_consecutive(number[alive])
        index = torch.searchsorted(numbers, number).clamp_max(len(numbers) - 1)
        place = (index * size + column % size)[alive]
        empty = number.new_full((len(numbers) * size,), -1)
        rows = empty.index_copy(0, place, alive).view(-1, size)
        return cls(tokens, evidence, size, numbers, numbers // per_row, index, rows)

    @cached_property
    def passage(self) -> Int[Tensor, "Tp"]:
        """The tokens that may be pruned."""
        prunable = ~self.tokens.roles.protected
        if self.tokens.alive is not None:
            prunable = prunable & self.tokens.alive
        return prunable.nonzero().squeeze(1)

    @cached_property
    def question(self) -> Int[Tensor, "Tq"]:
        """The protected tokens of texts with a token that may be pruned."""
        tokens = self.tokens
        has_passage = torch.zeros(tokens.grid[0], dtype=torch.bool, device=self.index.device)
        has_passage = has_passage.index_fill(0, tokens.sequence[self.passage], True)
        mask = has_passage[tokens.sequence] & tokens.roles.protected
        mask = mask if tokens.alive is None else mask & tokens.alive
        return mask.nonzero().squeeze(1)

    def between(
        self, queries: Int[Tensor, "P"], keys: Int[Tensor, "P"]
    ) -> Float[Tensor, "P H size size"]:
        """Attention of the tokens of blocks `queries` to those of blocks `keys`, pair by pair.

        0 for pairs of tokens that do not attend.
        """
        query, key, logsumexp, gate = self._by_block
        scores = torch.einsum("pihd,pjhd->phij", query[queries], key[keys])
        scores = scores - logsumexp[queries].transpose(1, 2).unsqueeze(-1)
        absent = (gate[keys] == 0)[:, None, None]
        pairs = self.evidence.pairs
        if pairs is not None:  # empty places count as any token: they are 0 anyway
            absent = absent | ~pairs.create_mask(self.rows[queries], self.rows[keys])
        exponentials = scores.masked_fill(absent, -torch.inf).exp()
        attention: Tensor = exponentials * gate[keys][:, None, None]
        return attention

    @cached_property
    def _by_block(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Scaled queries, keys, logsumexp (empty: inf), gates `(K, size, ...)` in fp32."""
        query, key, logsumexp = self.evidence.attention_inputs
        gate = self.tokens.gate
        gate = torch.ones_like(self.tokens.slot) if gate is None else gate
        scaled = self._lay_out(query) * query.shape[-1] ** -0.5
        return (
            scaled,
            self._lay_out(key),
            self._lay_out(logsumexp, torch.inf),
            self._lay_out(gate),
        )

    def _lay_out(self, values: Tensor, empty: float = 0.0) -> Tensor:
        is_token = self.rows.flatten() >= 0
        rows = values[self.rows.flatten()[is_token]].float()
        start = rows.new_full((self.rows.numel(), *values.shape[1:]), empty)
        filled = start.index_copy(0, is_token.nonzero().squeeze(1), rows)
        by_block: Tensor = filled.unflatten(0, (-1, self.size))
        return by_block


def pair_attention(blocks: Blocks, pairs: Int[Tensor, "P M 2"]) -> Float[Tensor, "P M*H size size"]:
    """Attention of M pairs of blocks, side by side."""
    queries, keys = pairs.flatten(0, 1).unbind(1)
    maps: Tensor = blocks.between(queries, keys).unflatten(0, pairs.shape[:2]).flatten(1, 2)
    return maps


def full_attention(blocks: Blocks, index: Int[Tensor, "P"]) -> Float[Tensor, "P 3*H size size"]:
    """Attention within each block, from it to all of its text, and from all of its text to it.

    The blocks of the other side are added up. Costs n^2 per text.
    """
    to_all, from_all = [], []
    for block in index.tolist():
        neighbours = (blocks.text == blocks.text[block]).nonzero().squeeze(1)
        same = torch.full_like(neighbours, block)
        to_all.append(blocks.between(same, neighbours).sum(0))
        from_all.append(blocks.between(neighbours, same).sum(0))
    maps = [blocks.between(index, index), torch.stack(to_all), torch.stack(from_all)]
    return torch.cat(maps, 1)


def _with_itself(blocks: Blocks, index: Tensor) -> Tensor:
    return torch.stack((index, index), -1)[:, None]


def _with_first(blocks: Blocks, index: Tensor) -> Tensor:
    first = torch.searchsorted(blocks.text, blocks.text[index])
    pairs = ((index, index), (index, first), (first, index))
    return torch.stack([torch.stack(pair, -1) for pair in pairs], 1)


@dataclass(frozen=True)
class AttentionScope:
    """How much of the attention a predictor reads: so many maps per head."""

    count: int
    # the pairs of blocks of each of a block's maps; None: all of its text
    pairs: Callable[[Blocks, Tensor], Tensor] | None

    def count_pairs(self, blocks: Blocks, index: Int[Tensor, "P"]) -> Int[Tensor, "P"]:
        """Count the pairs of blocks that the maps of these blocks are made of."""
        if self.pairs is None:
            return 1 + 2 * torch.bincount(blocks.text)[blocks.text[index]]
        return torch.full_like(index, self.count)

    def form(self, blocks: Blocks, index: Int[Tensor, "P"]) -> Float[Tensor, "P count*H size size"]:
        """Form the maps of these blocks."""
        if self.pairs is None:
            return full_attention(blocks, index)
        return pair_attention(blocks, self.pairs(blocks, index))


SCOPES: dict[str, AttentionScope] = {
    "diagonal": AttentionScope(1, _with_itself),  # attention within the block
    # and from it to its text's first block, which holds [CLS] and the question, and back
    "first": AttentionScope(3, _with_first),
    "whole": AttentionScope(3, None),  # and from it to all of its text, and back
}
