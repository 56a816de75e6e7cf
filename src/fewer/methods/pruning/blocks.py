"""Blocks of neighbouring tokens, and what attention within and between them looks like.

A block is `size` neighbouring columns of a text, pruned tokens included. Its place in the text
never changes, so a block that lost tokens is the same block with holes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fewer._cached_property import cached_property
from fewer.core.evidence import Evidence
from fewer.core.packed import Packed
from fewer.core.partition import partition
from fewer.kernels.cpu.blocks import BlockTable, lay_blocks, supports

__all__ = ["SCOPES", "AttentionScope", "Blocks", "full_attention", "pair_attention"]


@dataclass(frozen=True)
class Blocks:
    """The tokens of a batch in K blocks, without pruned tokens."""

    tokens: Packed
    evidence: Evidence
    size: int
    table: BlockTable

    @classmethod
    def of(cls, tokens: Packed, evidence: Evidence, size: int) -> Blocks:
        """Lay tokens in blocks; layers that prune no token share the table."""
        if tokens.alive is not None:
            return cls(tokens, evidence, size, _lay_blocks(tokens, size))
        memory = tokens.placement.__dict__
        roles, known_size, table = memory.get("_blocks", (None, 0, None))
        if roles is not tokens.roles or known_size != size:
            if supports(tokens.slot):
                places = tokens.slot, tokens.roles.protected, tokens.cu
                table = lay_blocks(*places, tokens.grid, size)
            else:
                table = _lay_blocks(tokens, size)
            memory["_blocks"] = tokens.roles, size, table
        return cls(tokens, evidence, size, table)

    @cached_property
    def rows(self) -> Int[Tensor, "K size"]:
        """The token at each place of each block, -1 where there is none."""
        table, column = self.table, self.tokens.placement.column
        end = len(table.number) * self.size
        rows = table.number.new_full((end + 1,), -1)  # the last is that of pruned tokens
        place = table.index * self.size + column % self.size
        if self.tokens.alive is not None:
            place = torch.where(self.tokens.alive, place, end)
        rows[place] = torch.arange(len(column), device=column.device)
        return rows[:-1].view(-1, self.size)

    def between(
        self, queries: Int[Tensor, "P"], keys: Int[Tensor, "P"]
    ) -> Float[Tensor, "P H size size"]:
        """Attention of the tokens of blocks `queries` to those of blocks `keys`, pair by pair.

        0 for pairs of tokens that do not attend.
        """
        query, key, logsumexp, gate = self._by_block
        scores = torch.einsum("pihd,pjhd->phij", query[queries], key[keys])
        if self.evidence.relative is not None:
            scores = scores + self._relative_scores(queries, keys)
        scores = scores - logsumexp[queries].transpose(1, 2).unsqueeze(-1)
        absent = (gate[keys] == 0)[:, None, None]
        pairs = self.evidence.pairs
        if pairs is not None:  # empty places count as any token: they are 0 anyway
            absent = absent | ~pairs.create_mask(self.rows[queries], self.rows[keys])
        exponentials = scores.masked_fill(absent, -torch.inf).exp()
        attention: Tensor = exponentials * gate[keys][:, None, None]
        return attention

    def _relative_scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return what is added to the scaled scores, by the columns of the tokens."""
        assert self.evidence.relative is not None
        query, key, *_ = self._by_block
        root: float = query.shape[-1] ** 0.5  # the queries of `_by_block` are divided by it
        relative = self.evidence.relative.to(query.dtype)
        column = self._lay_out(self.tokens.placement.column).long()
        buckets = relative.buckets(column[queries], column[keys])
        states = root * query[queries].transpose(1, 2), key[keys].transpose(1, 2)
        return relative.scores(*states, buckets) / root

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
        by_block = values[self.rows.clamp_min(0)].float()
        is_empty = (self.rows < 0).view(*self.rows.shape, *[1] * (values.ndim - 1))
        return by_block.masked_fill(is_empty, empty)


def _lay_blocks(tokens: Packed, size: int) -> BlockTable:
    """Lay tokens in blocks by PyTorch's operators, also those that are pruned but in memory."""
    per_row = -(-tokens.grid[1] // size)
    number = tokens.sequence * per_row + tokens.placement.column // size
    protected, alive = tokens.roles.protected, tokens.alive
    alive = torch.ones_like(protected) if alive is None else alive
    may_go = ~protected & alive
    first = _first_of_block(alive, number)
    (firsts, _), (prunable_rows, _), (passage, _) = partition(
        first, _first_of_block(may_go, number), may_go
    )
    numbers, index = number[firsts], (first.cumsum(0) - 1).clamp_min(0)
    prunable = index[prunable_rows]

    def find_questions() -> tuple[Tensor, Tensor]:
        has_passage = torch.zeros(tokens.grid[0], dtype=torch.bool, device=index.device)
        has_passage = has_passage.index_fill(0, tokens.sequence[passage], True)
        question = (has_passage[tokens.sequence] & protected & alive).nonzero().squeeze(1)
        return question, tokens.offsets(question)

    return BlockTable(
        numbers,
        numbers // per_row,
        index,
        prunable,
        numbers[prunable],
        numbers[prunable] // per_row,
        passage,
        torch.searchsorted(prunable, index[passage]),
        tokens.offsets(passage),
        find_questions,
    )


def _first_of_block(mask: Bool[Tensor, "T"], number: Int[Tensor, "T"]) -> Bool[Tensor, "T"]:
    """Return which tokens are the first of their block in the mask; blocks ascend by number."""
    starts = torch.ones_like(mask)
    starts[1:] = number.diff() != 0
    before = mask.cumsum(0) - mask.long()
    before_block = torch.where(starts, before, 0).cummax(0).values
    return mask & (before == before_block)


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
        neighbours = (blocks.table.text == blocks.table.text[block]).nonzero().squeeze(1)
        same = torch.full_like(neighbours, block)
        to_all.append(blocks.between(same, neighbours).sum(0))
        from_all.append(blocks.between(neighbours, same).sum(0))
    maps = [blocks.between(index, index), torch.stack(to_all), torch.stack(from_all)]
    return torch.cat(maps, 1)


def _with_itself(blocks: Blocks, index: Tensor) -> Tensor:
    return torch.stack((index, index), -1)[:, None]


def _with_first(blocks: Blocks, index: Tensor) -> Tensor:
    first = torch.searchsorted(blocks.table.text, blocks.table.text[index])
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
            return 1 + 2 * torch.bincount(blocks.table.text)[blocks.table.text[index]]
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
