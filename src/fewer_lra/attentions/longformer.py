"""Longformer (Beltagy et al., 2020, https://arxiv.org/abs/2004.05150).

    o_i = softmax over {j: |i - j| <= w / 2} and the first token        i > 0, by Q, K, V
    o_0 = softmax over all j                                            by Q_g, K_g, V_g

The global token is the first, which is [CLS] where a model has one. Other tokens read it by the
local projections. O(n w d).

What differs from the arena's code, and why: theirs had global projections but no global token,
multiplied all pairs under a mask, and had a window one token longer to the right than to the left.
"""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge, MultipleOf
from torch import nn

from fewer._validation.settings import checked
from fewer._validation.types import Whole
from fewer_lra.attentions.base import Attention, AttentionSpec, Heads, Mask, States, split_heads
from fewer_lra.attentions.patterned import Pattern, attend

__all__ = ["LongformerAttention"]


class LongformerAttention(Attention):
    """Tokens read their neighbours and the first token, which reads all."""

    @checked
    def __init__(
        self, spec: AttentionSpec, *, window: Annotated[Whole, Ge(2), MultipleOf(2)] = 512
    ) -> None:
        super().__init__(spec)
        self.pattern = Pattern(window=window // 2, global_tokens="first")
        all_heads = spec.heads * spec.width
        self.query, self.key, self.value = (
            nn.Linear(spec.hidden, all_heads, bias=False) for _ in range(3)
        )
        for linear in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, q: Heads, k: Heads, v: Heads, hidden: States, mask: Mask) -> Heads:
        """Attend."""
        heads = self.spec.heads
        q = torch.cat((split_heads(self.query(hidden[:, :1]), heads), q[:, :, 1:]), 2)
        global_kv = split_heads(self.key(hidden), heads), split_heads(self.value(hidden), heads)
        return attend(q, k, v, mask, self.pattern, global_kv, self.dropout)
