"""Linformer (Wang et al., 2020, https://arxiv.org/abs/2006.04768).

    o = softmax(Q (E^T K)^T / sqrt(d)) E^T V        E: learned, n x k

O(n k d). One E a layer, for keys, values and all heads, which the paper calls key-value sharing; so
does the arena's code.

What differs from the arena's code, and why: keys and values are 0 at padding before E mixes them.
Afterwards no mask can tell padding apart, and theirs let it in.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from fewer_lra.attentions.base import Attention, AttentionShape, Heads, Mask, States, positive

__all__ = ["Linformer"]


class Linformer(Attention):
    """Every token reads `rank` mixtures of all tokens."""

    def __init__(self, shape: AttentionShape, *, rank: int = 16) -> None:
        super().__init__(shape)
        mixing = torch.empty(shape.max_length, positive("rank", rank))
        self.mixing = nn.Parameter(nn.init.xavier_normal_(mixing))  # E

    def forward(self, q: Heads, k: Heads, v: Heads, hidden: States, mask: Mask) -> Heads:
        """Attend."""
        self.refuse_longer(q.shape[2])
        mixing = self.mixing[: q.shape[2]].T  # (k, n)
        padding = ~mask[:, None, :, None]
        k, v = (mixing @ side.masked_fill(padding, 0) for side in (k, v))  # (B, H, k, d)
        return F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout)
