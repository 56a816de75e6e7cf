"""Attention with a sparse pattern, on the kernels of `fewer`."""

from __future__ import annotations

import torch

from fewer.kernels import AttentionCall, Pattern
from fewer.kernels.sdpa import attend as attend_packed
from fewer.kernels.sparse import SparseLayout, TokenPositions, find_global_tokens, offsets
from fewer_lra.attentions.base import Heads, Mask

__all__ = ["Pattern", "attend"]


def attend(
    q: Heads,
    k: Heads,
    v: Heads,
    mask: Mask,
    pattern: Pattern,
    global_kv: tuple[Heads, Heads] | None = None,
    dropout: float = 0.0,
) -> Heads:
    """Attend to the pairs of a pattern, packed; zeros on padding.

    `global_kv` are the keys and values that global tokens read, where a method has separate
    projections for them; the queries of global tokens are in `q`.
    """
    texts, heads, columns, width = q.shape
    rows = mask.flatten().nonzero().squeeze(1)
    sequence, column, lengths = rows // columns, rows % columns, mask.sum(1)
    is_global = find_global_tokens(pattern, sequence, column, lengths, None)
    positions = TokenPositions(sequence, column, is_global)

    def pack(states: Heads) -> torch.Tensor:
        return states.transpose(1, 2).flatten(0, 1).index_select(0, rows)  # (T, H, d)

    packed_kv = None if global_kv is None else (pack(global_kv[0]), pack(global_kv[1]))
    cu = offsets(lengths)
    sparse = SparseLayout(pattern, positions, positions, lengths, heads, packed_kv)
    call = AttentionCall(pack(q), pack(k), pack(v), cu, cu, sparse=sparse, dropout=dropout)
    context = attend_packed(call).context
    padded = context.new_zeros(texts * columns, heads * width).index_copy(0, rows, context)
    return padded.view(texts, columns, heads, width).transpose(1, 2)
