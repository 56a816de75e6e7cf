"""The one door of the attentions that read by a fixed pattern of pairs."""

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
    far: tuple[Heads, Heads] | None = None,
    dropout: float = 0.0,
) -> Heads:
    """Attend to the pairs of a pattern, packed; zeros on padding.

    `far` are keys and values as anchors read them, where a method has other projections for these;
    the queries of anchors are in `q`.
    """
    texts, heads, columns, width = q.shape
    rows = mask.flatten().nonzero().squeeze(1)
    sequence, column, extent = rows // columns, rows % columns, mask.sum(1)
    places = TokenPositions(
        sequence, column, find_global_tokens(pattern, sequence, column, extent, None)
    )

    def packed(states: Heads) -> torch.Tensor:
        return states.transpose(1, 2).flatten(0, 1).index_select(0, rows)  # (T, H, d)

    apart = None if far is None else (packed(far[0]), packed(far[1]))
    cu = offsets(extent)
    sparse = SparseLayout(pattern, places, places, extent, heads, apart)
    own = packed(q), packed(k), packed(v)
    context = attend_packed(AttentionCall(*own, cu, cu, sparse=sparse, dropout=dropout)).context
    padded = context.new_zeros(texts * columns, heads * width).index_copy(0, rows, context)
    return padded.view(texts, columns, heads, width).transpose(1, 2)
