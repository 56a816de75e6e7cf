"""The layout of sparse attention: chunks of queries with the keys that they may read.

The queries of a text are cut into chunks of neighbours. Kernels compute a chunk and its keys as one
short text, so they need no notion of a pattern beyond a window. Cost falls with the number of pairs
on every kernel, gradients are exact, and the output does not depend on the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fewer._cached_property import cached_property
from fewer.kernels.pattern import Pattern

__all__ = [
    "Chunks",
    "SparseLayout",
    "TokenPositions",
    "chunk_index",
    "dense_pairs",
    "find_global_tokens",
    "find_question_tokens",
    "offsets",
    "sum_per_chunk",
]


@dataclass(frozen=True)
class TokenPositions:
    """The text and column of each token; rows ascend by text and column."""

    sequence: Int[Tensor, "T"]
    column: Int[Tensor, "T"]  # in the original text
    is_global: Bool[Tensor, "T"]  # global tokens: read, and are read by, all of their text
    may_be_global: bool = True  # False: it is known that there are no global tokens

    def select(self, rows: Int[Tensor, "Tq"] | None) -> TokenPositions:
        """Select these rows; `None` selects all."""
        if rows is None:
            return self
        return TokenPositions(
            self.sequence[rows], self.column[rows], self.is_global[rows], self.may_be_global
        )


@dataclass(frozen=True)
class SparseLayout:
    """The sparse attention of a call: the pattern and the positions of queries and keys."""

    pattern: Pattern
    queries: TokenPositions
    keys: TokenPositions
    lengths: Int[Tensor, "B"]  # columns of each original text
    heads: int
    # keys and values that global tokens read, where the model has separate projections for them
    global_kv: tuple[Float[Tensor, "Tk H d"], Float[Tensor, "Tk H d"]] | None = None

    @cached_property
    def chunks(self) -> Chunks:
        """Cut the queries into chunks, and find the keys of each."""
        parts = [_cut_local(self), _cut_global(self)]
        return _join([part for part in parts if part is not None], self)

    @cached_property
    def is_band(self) -> bool:
        """Whether the pattern is a sliding window and nothing else."""
        if not self.pattern.has_sliding_window or self.pattern.summary:
            return False
        return not self.keys.may_be_global or not bool(self.keys.is_global.any())

    @cached_property
    def visible_keys(self) -> Bool[Tensor, "Tk"]:
        """Keys that all queries of their text read."""
        keys, pattern = self.keys, self.pattern
        if not pattern.summary:
            return keys.is_global
        return keys.is_global | (keys.column % pattern.block >= pattern.block - pattern.summary)

    def select(self, rows: Int[Tensor, "T"]) -> SparseLayout:
        """Select these rows as queries and keys, where both are the same; without `global_kv`."""
        positions = self.keys.select(rows)
        return SparseLayout(self.pattern, positions, positions, self.lengths, self.heads)

    def create_mask(
        self, query_rows: Int[Tensor, "... q"], key_rows: Int[Tensor, "... k"]
    ) -> Bool[Tensor, "... H q k"]:
        """Return which pairs of these rows attend, by the definition of the pattern."""
        queries, keys, pattern = self.queries, self.keys, self.pattern
        block_q = queries.column[query_rows] // pattern.block
        block_k = keys.column[key_rows] // pattern.block
        pairs = (block_q.unsqueeze(-1) - block_k.unsqueeze(-2)).abs() <= pattern.window
        pairs = pairs | queries.is_global[query_rows].unsqueeze(-1)
        pairs = pairs | self.visible_keys[key_rows].unsqueeze(-2)
        pairs = pairs.unsqueeze(-3).expand(*pairs.shape[:-2], self.heads, -1, -1)
        text = queries.sequence[query_rows]
        if pattern.random:
            random = self.random_blocks(text.flatten(), block_q.flatten())
            random = random.view(*block_q.shape, *random.shape[1:])
            random = random.transpose(-3, -2)  # (..., H, q, r)
            is_random = random.unsqueeze(-1) == block_k[..., None, None, None, :]
            pairs = pairs | is_random.any(-2)
        same_text = text.unsqueeze(-1) == keys.sequence[key_rows].unsqueeze(-2)
        return pairs & same_text.unsqueeze(-3)

    def random_blocks(
        self, text: Int[Tensor, "C"], block: Int[Tensor, "C"]
    ) -> Int[Tensor, "C H r"]:
        """Return the random blocks that each head reads from these blocks of these texts."""
        counts = -(-self.lengths // self.pattern.block)
        shape = (len(text), self.heads, self.pattern.random)
        blocks = torch.empty(shape, dtype=torch.long, device=text.device)
        for count in counts.unique().tolist():
            table = self.pattern.draw_blocks(count, self.heads).to(text.device)
            rows = (counts[text] == count).nonzero().squeeze(1)
            blocks[rows] = table[:, block[rows]].transpose(0, 1)
        return blocks


@dataclass(frozen=True)
class Chunks:
    """Rows of queries and keys, chunk after chunk.

    Where each head draws its own blocks, a chunk belongs to one head, and the row of token i and
    head h is i * rows_per_token + h. Row numbers beyond the number of keys index `global_kv`.
    """

    queries: Int[Tensor, "Q"]
    keys: Int[Tensor, "K"]
    cu_q: Int[Tensor, "C+1"]
    cu_k: Int[Tensor, "C+1"]
    text: Int[Tensor, "C"]  # of each chunk
    window_exempt: Bool[Tensor, "K"]  # keys visible from any distance, first in their chunk
    rows_per_token: int  # number of heads if each has its own chunks, else 1

    def count_pairs(
        self,
        query_weight: Float[Tensor, "Tq"] | None,
        key_weight: Float[Tensor, "Tk"] | None,
        texts: int,
    ) -> Float[Tensor, "B"]:
        """Count the pairs that are multiplied in each text; tokens count by their weight."""
        keys, queries = (
            cu.diff().float()
            if weight is None
            else sum_per_chunk(weight.float(), rows // self.rows_per_token, cu)
            for weight, rows, cu in (
                (key_weight, self.keys, self.cu_k),
                (query_weight, self.queries, self.cu_q),
            )
        )
        pairs = queries * keys / self.rows_per_token
        return pairs.new_zeros(texts).index_add(0, self.text, pairs)


def sum_per_chunk(
    weight: Float[Tensor, "T"], rows: Int[Tensor, "R"], cu: Int[Tensor, "C+1"]
) -> Float[Tensor, "C"]:
    """Sum the weights of the tokens of each chunk; `global_kv` rows have their token's weight."""
    row_weight = weight[rows % len(weight)]
    sums = row_weight.new_zeros(len(cu) - 1)
    return sums.index_add(0, chunk_index(cu, len(rows)), row_weight)


def chunk_index(cu: Int[Tensor, "C+1"], rows: int) -> Int[Tensor, "R"]:
    """Return the chunk index of each row."""
    return torch.repeat_interleave(cu.diff(), output_size=rows)


@dataclass(frozen=True)
class _Part:
    """Chunks as ranges of query rows and of places in a list of key rows."""

    queries: Tensor
    counts: Tensor  # (C): queries per chunk
    text: Tensor  # (C)
    source: Tensor  # key rows that the ranges index
    begin: Tensor  # (C, h, S), h the heads with their own chunks, or 1
    end: Tensor
    window_exempt: Tensor  # (S): whether a range is visible from any distance


def _cut_local(sparse: SparseLayout) -> _Part | None:
    """Cut the local queries; they read visible keys, the window and random blocks."""
    queries, keys, pattern = sparse.queries, sparse.keys, sparse.pattern
    rows = (~queries.is_global).nonzero().squeeze(1)
    if not len(rows):
        return None
    width = int(sparse.lengths.max()) + 1
    chunks_per_text = width // pattern.chunk_size + 1
    index = queries.sequence[rows] * chunks_per_text + queries.column[rows] // pattern.chunk_size
    chunks, counts = index.unique_consecutive(return_counts=True)
    text, chunk = chunks // chunks_per_text, chunks % chunks_per_text
    visible, local = (
        mask.nonzero().squeeze(1) for mask in (sparse.visible_keys, ~sparse.visible_keys)
    )
    order = keys.sequence[local] * width + keys.column[local]

    def find_ranges(text: Tensor, first: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        bounds = torch.stack([text * width + column.clamp(0, width) for column in (first, end)])
        begin, end = torch.searchsorted(order, bounds) + len(visible)
        return begin, end

    texts = torch.stack((text, text + 1))
    ranges = [tuple(torch.searchsorted(keys.sequence[visible].contiguous(), texts).unbind())]
    ranges.append(find_ranges(text, *pattern.window_bounds(chunk)))
    begin, end = (torch.stack(bounds, -1)[:, None] for bounds in zip(*ranges, strict=True))
    if pattern.random:
        blocks = sparse.random_blocks(text, chunk)  # (C, H, r); -1: none
        first = blocks.clamp_min(0) * pattern.block
        last = torch.where(blocks < 0, first, first + pattern.block)
        random = find_ranges(text[:, None, None], first, last)
        begin, end = (
            torch.cat((bounds.expand(-1, sparse.heads, -1), random_bounds), -1)
            for bounds, random_bounds in zip((begin, end), random, strict=True)
        )
    exempt = torch.ones(begin.shape[-1], dtype=torch.bool, device=begin.device)
    exempt[
        1
    ] = not pattern.has_sliding_window  # blocks are read whole, a band only within the window
    return _Part(rows, counts, text, torch.cat((visible, local)), begin, end, exempt)


def _cut_global(sparse: SparseLayout) -> _Part | None:
    """Put the global tokens of each text into one chunk, which reads all keys of the text."""
    rows = sparse.queries.is_global.nonzero().squeeze(1)
    if not len(rows):
        return None
    sequence = sparse.keys.sequence
    text, counts = sparse.queries.sequence[rows].unique_consecutive(return_counts=True)
    begin, end = torch.searchsorted(sequence, torch.stack((text, text + 1)))
    source = torch.arange(len(sequence), device=sequence.device)
    if sparse.global_kv is not None:
        source = source + len(sequence)
    heads = sparse.heads if sparse.pattern.random else 1
    begin, end = (bounds[:, None, None].expand(-1, heads, 1) for bounds in (begin, end))
    exempt = torch.ones(1, dtype=torch.bool, device=sequence.device)
    return _Part(rows, counts, text, source, begin, end, exempt)


def _join(parts: list[_Part], sparse: SparseLayout) -> Chunks:
    rows_per_token = sparse.heads if sparse.pattern.random else 1
    queries, keys, exempt, counts_q, counts_k, text = [], [], [], [], [], []
    for part in parts:
        queries.append(_repeat_per_head(part.queries, part.counts, rows_per_token))
        counts_q.append(part.counts.repeat_interleave(rows_per_token))
        sizes = part.end - part.begin  # (C, h, S)
        flat = sizes.flatten()
        counts_k.append(sizes.sum(-1).flatten())
        rows = part.source[_list_ranges(part.begin.flatten(), flat)]
        keys.append(_add_heads(rows, counts_k[-1], rows_per_token))
        exempt.append(part.window_exempt.repeat(sizes[..., 0].numel()).repeat_interleave(flat))
        text.append(part.text.repeat_interleave(rows_per_token))
    return Chunks(
        torch.cat(queries),
        torch.cat(keys),
        offsets(torch.cat(counts_q)),
        offsets(torch.cat(counts_k)),
        torch.cat(text),
        torch.cat(exempt),
        rows_per_token,
    )


def _repeat_per_head(rows: Tensor, counts: Tensor, heads: int) -> Tensor:
    """Repeat the rows of each chunk for every head, head after head."""
    if heads == 1:
        return rows
    starts = (counts.cumsum(0) - counts).repeat_interleave(heads)
    sizes = counts.repeat_interleave(heads)
    return _add_heads(rows[_list_ranges(starts, sizes)], sizes, heads)


def _list_ranges(begin: Tensor, sizes: Tensor) -> Tensor:
    """List the numbers of ranges, one range after another."""
    starts = sizes.cumsum(0) - sizes
    index = torch.arange(int(sizes.sum()), device=sizes.device)
    return index + (begin - starts).repeat_interleave(sizes)


def _add_heads(rows: Tensor, sizes: Tensor, heads: int) -> Tensor:
    """Turn token rows into rows of tokens and heads; chunks cycle through the heads."""
    if heads == 1:
        return rows
    head = torch.arange(heads, device=rows.device).repeat(len(sizes) // heads)
    return rows * heads + head.repeat_interleave(sizes)


def offsets(counts: Int[Tensor, "B"]) -> Int[Tensor, "B+1"]:
    """Return the start of each run of rows, and the end of the last."""
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))


def find_global_tokens(
    pattern: Pattern,
    sequence: Int[Tensor, "T"],
    column: Int[Tensor, "T"],
    lengths: Int[Tensor, "B"],
    question: Bool[Tensor, "T"] | None,
) -> Bool[Tensor, "T"]:
    """Return which tokens are global; `question` as from `find_question_tokens`."""
    length = lengths[sequence]
    if pattern.global_tokens == "first":
        is_global = column == 0
    elif pattern.global_tokens == "ends":
        block = column // pattern.block
        is_global = (block == 0) | (block == (length - 1) // pattern.block)
    elif pattern.global_tokens == "question":
        assert question is not None  # packing finds it for patterns that need it
        is_global = question
    else:
        is_global = torch.zeros_like(column, dtype=torch.bool)
    return is_global | (length <= pattern.full_up_to) if pattern.full_up_to else is_global


def find_question_tokens(
    sequence: Int[Tensor, "T"],
    column: Int[Tensor, "T"],
    second: Bool[Tensor, "T"],
    texts: int,
) -> Bool[Tensor, "T"]:
    """Return which tokens belong to the first text of a pair, or are the first token of a text."""
    second_tokens = torch.zeros(texts, device=second.device).index_add(0, sequence, second.float())
    return torch.where(second_tokens[sequence] > 0, ~second, column == 0)


def dense_pairs(pattern: Pattern, lengths: Float[Tensor, "B"], heads: int) -> Float[Tensor, "B"]:
    """Count the pairs per text of these lengths that a pattern multiplies without pruning."""
    counts = lengths.long()
    total = int(counts.sum())
    sequence = torch.repeat_interleave(counts, output_size=total)
    column = torch.arange(total, device=counts.device) - offsets(counts)[sequence]
    is_global = find_global_tokens(
        pattern, sequence, column, counts, torch.zeros_like(column).bool()
    )
    positions = TokenPositions(sequence, column, is_global)
    layout = SparseLayout(pattern, positions, positions, counts, heads)
    return layout.chunks.count_pairs(None, None, len(counts))
