"""Longformer (Beltagy et al., 2020, https://arxiv.org/abs/2004.05150).

    o_i = softmax over {j: |i - j| <= w / 2} and the first token        i > 0, by Q, K, V
    o_0 = softmax over all j                                            by Q_g, K_g, V_g

The global token is the first, which is [CLS] where a model has one. Others read it by their own
projections. O(n w d).

What differs from the arena's code, and why: theirs owned the global projections but had no global
token; multiplied all pairs under a mask; and looked one token further to the right than to the
left.
"""

from __future__ import annotations

import torch
from torch import nn

from fewer_lra.attentions.base import Attention, AttentionShape, Heads, Mask, States, apart
from fewer_lra.attentions.patterned import Pattern, attend

__all__ = ["Longformer"]


class Longformer(Attention):
    """Tokens read their neighbours and the first token, which reads all."""

    def __init__(self, shape: AttentionShape, *, window: int = 512) -> None:
        super().__init__(shape)
        if window < 2 or window % 2:
            raise ValueError(f"window is {window}, wanted an even number of tokens: w / 2 a side")
        self.pattern = Pattern(window=window // 2, global_tokens="first")
        across = shape.heads * shape.width
        self.query, self.key, self.value = (
            nn.Linear(shape.hidden, across, bias=False) for _ in range(3)
        )
        for linear in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, q: Heads, k: Heads, v: Heads, hidden: States, mask: Mask) -> Heads:
        """Attend."""
        heads = self.shape.heads
        q = torch.cat((apart(self.query(hidden[:, :1]), heads), q[:, :, 1:]), 2)
        far = apart(self.key(hidden), heads), apart(self.value(hidden), heads)
        return attend(q, k, v, mask, self.pattern, far, self.dropout)
