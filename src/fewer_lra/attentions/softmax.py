"""Softmax attention (Vaswani et al., 2017, https://arxiv.org/abs/1706.03762): the baseline.

    o = softmax(Q K^T / sqrt(d) + M) V        M = 0 at tokens, -inf at padding

O(n^2 d). No difference from the arena's own code.
"""

from __future__ import annotations

import torch.nn.functional as F

from fewer_lra.attentions.base import Attention, Heads, Mask, States

__all__ = ["SoftmaxAttention"]


class SoftmaxAttention(Attention):
    """Every token reads every token."""

    def forward(self, q: Heads, k: Heads, v: Heads, hidden: States, mask: Mask) -> Heads:
        """Attend."""
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask[:, None, None], dropout_p=self.dropout
        )
