"""Attention by a pattern, as attention within many short texts.

The queries of a text are cut into chunks of neighbours; a chunk and the keys that it may read are a
text of their own to the kernel, which so needs to know windows at most. Cost falls with the number
of pairs on every kernel, gradients are exact, and nothing depends on who else is in the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fewer.kernels.pattern import Pattern

__all__ = [
    "Chunks",
    "SparseLayout",
    "TokenPositions",
    "anchors_of",
    "chunk_of",
    "dense_pairs",
    "offsets",
    "question_of",
    "sums",
]


@dataclass(frozen=True)
class TokenPositions:
    """Where tokens stand: rows in ascending order of text and column."""

    sequence: Int[Tensor, "T"]
    column: Int[Tensor, "T"]  # in the text as it came
    anchors: Bool[Tensor, "T"]  # read, and are read by, all of their text

    def take(self, rows: Int[Tensor, "Tq"] | None) -> TokenPositions:
        """Keep these rows; `None` keeps all."""
        if rows is None:
            return self
        return TokenPositions(self.sequence[rows], self.column[rows], self.anchors[rows])


@dataclass(frozen=True)
class SparseLayout:
    """How the texts of a call are read: the pattern, and where queries and keys stand."""

    pattern: Pattern
    asking: TokenPositions
    asked: TokenPositions
    extent: Int[Tensor, "B"]  # columns of each text as it came
    heads: int
    # keys and values as anchors read them, where the model has other projections for these
    far: tuple[Float[Tensor, "Tk H d"], Float[Tensor, "Tk H d"]] | None = None

    @cached_property
    def chunks(self) -> Chunks:
        """Cut the queries into chunks, and find the keys of each."""
        parts = [_local(self), _anchored(self)]
        return _joined([part for part in parts if part is not None], self)

    @property
    def is_band(self) -> bool:
        """Whether all that is read is what stands near."""
        pattern = self.pattern
        return pattern.slides and not pattern.summary and not bool(self.asked.anchors.any())

    @cached_property
    def heard(self) -> Bool[Tensor, "Tk"]:
        """Keys that are read by all queries of their text."""
        asked, pattern = self.asked, self.pattern
        if not pattern.summary:
            return asked.anchors
        return asked.anchors | (asked.column % pattern.block >= pattern.block - pattern.summary)

    def take(self, rows: Int[Tensor, "T"]) -> SparseLayout:
        """Keep these rows, as queries and as keys, where these are the same; without far maps."""
        places = self.asked.take(rows)
        return SparseLayout(self.pattern, places, places, self.extent, self.heads)

    def reads(
        self, asking: Int[Tensor, "... q"], asked: Int[Tensor, "... k"]
    ) -> Bool[Tensor, "... H q k"]:
        """Tell which pairs of these rows there are, from the pattern's definition."""
        own, others, pattern = self.asking, self.asked, self.pattern
        block = own.column[asking] // pattern.block
        other = others.column[asked] // pattern.block
        near = (block.unsqueeze(-1) - other.unsqueeze(-2)).abs() <= pattern.window
        found = near | own.anchors[asking].unsqueeze(-1) | self.heard[asked].unsqueeze(-2)
        found = found.unsqueeze(-3).expand(*near.shape[:-2], self.heads, -1, -1)
        text = own.sequence[asking]
        if pattern.random:
            drawn = self.drawn(text.flatten(), block.flatten())
            drawn = drawn.view(*block.shape, *drawn.shape[1:]).transpose(-3, -2)  # (..., H, q, r)
            there = drawn.unsqueeze(-1) == other[..., None, None, None, :]
            found = found | there.any(-2)
        same = text.unsqueeze(-1) == others.sequence[asked].unsqueeze(-2)
        return found & same.unsqueeze(-3)

    def drawn(self, text: Int[Tensor, "C"], block: Int[Tensor, "C"]) -> Int[Tensor, "C H r"]:
        """Blocks that each head reads beside the window, from these blocks of these texts."""
        blocks = -(-self.extent // self.pattern.block)
        shape = (len(text), self.heads, self.pattern.random)
        found = torch.empty(shape, dtype=torch.long, device=text.device)
        for count in blocks.unique().tolist():
            table = self.pattern.drawn(count, self.heads).to(text.device)
            mine = (blocks[text] == count).nonzero().squeeze(1)
            found[mine] = table[:, block[mine]].transpose(0, 1)
        return found


@dataclass(frozen=True)
class Chunks:
    """Rows of queries and keys, chunk after chunk.

    Where each head draws its own blocks, a chunk is one head's, and the row of token i and head h
    is i * split + h. Keys from the number of all keys on are far ones.
    """

    queries: Int[Tensor, "Q"]
    keys: Int[Tensor, "K"]
    cu_q: Int[Tensor, "C+1"]
    cu_k: Int[Tensor, "C+1"]
    text: Int[Tensor, "C"]  # that each chunk is of
    free: Bool[Tensor, "K"]  # keys that are read from any distance; they come first in their chunk
    split: int  # chunks that the heads of one are told apart in; 1: they are not

    def pairs(
        self, asking: Float[Tensor, "Tq"] | None, asked: Float[Tensor, "Tk"] | None, texts: int
    ) -> Float[Tensor, "B"]:
        """Count the pairs that are multiplied for each text, tokens by how far they take part."""
        asked_of, asking_of = (
            cu.diff().float() if weight is None else sums(weight.float(), rows // self.split, cu)
            for weight, rows, cu in (
                (asked, self.keys, self.cu_k),
                (asking, self.queries, self.cu_q),
            )
        )
        pairs = asking_of * asked_of / self.split
        return pairs.new_zeros(texts).index_add(0, self.text, pairs)


def sums(
    weight: Float[Tensor, "T"], rows: Int[Tensor, "R"], cu: Int[Tensor, "C+1"]
) -> Float[Tensor, "C"]:
    """Add up the weights of each chunk's tokens; far rows weigh what those of their token do."""
    own = weight[rows % len(weight)]
    return own.new_zeros(len(cu) - 1).index_add(0, chunk_of(cu, len(rows)), own)


def chunk_of(cu: Int[Tensor, "C+1"], rows: int) -> Int[Tensor, "R"]:
    """Return the number of each row's chunk."""
    return torch.repeat_interleave(cu.diff(), output_size=rows)


@dataclass(frozen=True)
class _Part:
    """Chunks as ranges: of query rows, and of places in a list of key rows."""

    queries: Tensor
    counts: Tensor  # (C): queries of each chunk
    text: Tensor  # (C)
    source: Tensor  # rows of keys that the ranges are of
    begin: Tensor  # (C, h, S), h the heads that are told apart
    end: Tensor
    free: Tensor  # (S): whether a range is read from any distance


def _local(sparse: SparseLayout) -> _Part | None:
    """Cut the queries that are no anchors; they read what all hear, their window, drawn blocks."""
    asking, asked, pattern = sparse.asking, sparse.asked, sparse.pattern
    queries = (~asking.anchors).nonzero().squeeze(1)
    if not len(queries):
        return None
    wide = int(sparse.extent.max()) + 1
    units = wide // pattern.unit + 1
    place = asking.sequence[queries] * units + asking.column[queries] // pattern.unit
    chunks, counts = place.unique_consecutive(return_counts=True)
    text, unit = chunks // units, chunks % units
    heard, local = (rows.nonzero().squeeze(1) for rows in (sparse.heard, ~sparse.heard))
    order = asked.sequence[local] * wide + asked.column[local]

    def within(text: Tensor, first: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        bounds = torch.stack([text * wide + side.clamp(0, wide) for side in (first, end)])
        begin, end = torch.searchsorted(order, bounds) + len(heard)
        return begin, end

    texts = torch.stack((text, text + 1))
    ranges = [tuple(torch.searchsorted(asked.sequence[heard].contiguous(), texts).unbind())]
    ranges.append(within(text, *pattern.reach(unit)))
    begin, end = (torch.stack(side, -1)[:, None] for side in zip(*ranges, strict=True))
    if pattern.random:
        blocks = sparse.drawn(text, unit)  # (C, H, r); -1: none
        first = blocks.clamp_min(0) * pattern.block
        last = torch.where(blocks < 0, first, first + pattern.block)
        drawn = within(text[:, None, None], first, last)
        begin, end = (
            torch.cat((side.expand(-1, sparse.heads, -1), more), -1)
            for side, more in zip((begin, end), drawn, strict=True)
        )
    free = torch.ones(begin.shape[-1], dtype=torch.bool, device=begin.device)
    free[1] = not pattern.slides  # whole blocks are read; of a band only what is near
    return _Part(queries, counts, text, torch.cat((heard, local)), begin, end, free)


def _anchored(sparse: SparseLayout) -> _Part | None:
    """Give the anchors of each text, as one chunk, all of its keys."""
    queries = sparse.asking.anchors.nonzero().squeeze(1)
    if not len(queries):
        return None
    asked = sparse.asked.sequence
    text, counts = sparse.asking.sequence[queries].unique_consecutive(return_counts=True)
    begin, end = torch.searchsorted(asked, torch.stack((text, text + 1)))
    source = torch.arange(len(asked), device=asked.device)
    if sparse.far is not None:
        source = source + len(asked)
    heads = sparse.heads if sparse.pattern.random else 1
    begin, end = (side[:, None, None].expand(-1, heads, 1) for side in (begin, end))
    free = torch.ones(1, dtype=torch.bool, device=asked.device)
    return _Part(queries, counts, text, source, begin, end, free)


def _joined(parts: list[_Part], sparse: SparseLayout) -> Chunks:
    split = sparse.heads if sparse.pattern.random else 1
    queries, keys, free, of_queries, of_keys, text = [], [], [], [], [], []
    for part in parts:
        queries.append(_by_heads(part.queries, part.counts, split))
        of_queries.append(part.counts.repeat_interleave(split))
        sizes = part.end - part.begin  # (C, h, S)
        flat = sizes.flatten()
        of_keys.append(sizes.sum(-1).flatten())
        rows = part.source[_ranges(part.begin.flatten(), flat)]
        keys.append(_of_heads(rows, of_keys[-1], split))
        free.append(part.free.repeat(sizes[..., 0].numel()).repeat_interleave(flat))
        text.append(part.text.repeat_interleave(split))
    return Chunks(
        torch.cat(queries),
        torch.cat(keys),
        offsets(torch.cat(of_queries)),
        offsets(torch.cat(of_keys)),
        torch.cat(text),
        torch.cat(free),
        split,
    )


def _by_heads(rows: Tensor, counts: Tensor, split: int) -> Tensor:
    """Repeat the rows of each chunk once a head, head after head."""
    if split == 1:
        return rows
    starts = (counts.cumsum(0) - counts).repeat_interleave(split)
    sizes = counts.repeat_interleave(split)
    return _of_heads(rows[_ranges(starts, sizes)], sizes, split)


def _ranges(begin: Tensor, sizes: Tensor) -> Tensor:
    """List the numbers of ranges, one range after another."""
    before = sizes.cumsum(0) - sizes
    places = torch.arange(int(sizes.sum()), device=sizes.device)
    return places + (begin - before).repeat_interleave(sizes)


def _of_heads(rows: Tensor, sizes: Tensor, split: int) -> Tensor:
    """Add their head to the numbers of rows; chunks of these sizes are each one head's in turn."""
    if split == 1:
        return rows
    head = torch.arange(split, device=rows.device).repeat(len(sizes) // split)
    return rows * split + head.repeat_interleave(sizes)


def offsets(counts: Int[Tensor, "B"]) -> Int[Tensor, "B+1"]:
    """Return where each of some runs of rows begins, and where the last ends."""
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))


def anchors_of(
    pattern: Pattern,
    sequence: Int[Tensor, "T"],
    column: Int[Tensor, "T"],
    extent: Int[Tensor, "B"],
    question: Bool[Tensor, "T"] | None,
) -> Bool[Tensor, "T"]:
    """Find the tokens that read all and are read by all; `question` as of `question_of`."""
    length = extent[sequence]
    if pattern.anchors == "first":
        found = column == 0
    elif pattern.anchors == "ends":
        block = column // pattern.block
        found = (block == 0) | (block == (length - 1) // pattern.block)
    elif pattern.anchors == "question":
        assert question is not None  # the border finds it for patterns that ask
        found = question
    else:
        found = torch.zeros_like(column, dtype=torch.bool)
    return found | (length <= pattern.full_up_to) if pattern.full_up_to else found


def question_of(
    sequence: Int[Tensor, "T"],
    column: Int[Tensor, "T"],
    second: Bool[Tensor, "T"],
    texts: int,
) -> Bool[Tensor, "T"]:
    """Find the first text of each pair; a text that has no second asks by its first token only."""
    later = torch.zeros(texts, device=second.device).index_add(0, sequence, second.float())
    return torch.where(later[sequence] > 0, ~second, column == 0)


def dense_pairs(pattern: Pattern, lengths: Float[Tensor, "B"], heads: int) -> Float[Tensor, "B"]:
    """Count the pairs of texts of these lengths that a pattern multiplies when all tokens read."""
    counts = lengths.long()
    total = int(counts.sum())
    sequence = torch.repeat_interleave(counts, output_size=total)
    column = torch.arange(total, device=counts.device) - offsets(counts)[sequence]
    anchors = anchors_of(pattern, sequence, column, counts, torch.zeros_like(column).bool())
    places = TokenPositions(sequence, column, anchors)
    return SparseLayout(pattern, places, places, counts, heads).chunks.pairs(
        None, None, len(counts)
    )
