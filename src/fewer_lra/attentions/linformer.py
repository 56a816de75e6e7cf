"""Linformer (Wang et al., 2020, https://arxiv.org/abs/2006.04768).

    o = softmax(Q (E^T K)^T / sqrt(d)) E^T V        E: learned, n x k

O(n k d). One E per layer, for keys, values and all heads: the paper's key-value sharing, as in the
arena's code.

What differs from the arena's code, and why: keys and values are 0 at padding before E mixes them.
Afterwards no mask can separate padding, and theirs included it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from fewer._validation.settings import checked
from fewer._validation.types import Count
from fewer_lra.attentions.base import Attention, AttentionSpec, Heads, Mask, States

__all__ = ["LinformerAttention"]


class LinformerAttention(Attention):
    """Tokens read `rank` linear combinations of all tokens."""

    @checked
    def __init__(self, spec: AttentionSpec, *, rank: Count = 16) -> None:
        super().__init__(spec)
        mixing = torch.empty(spec.max_length, rank)
        self.mixing = nn.Parameter(nn.init.xavier_normal_(mixing))  # E

    def forward(self, q: Heads, k: Heads, v: Heads, hidden: States, mask: Mask) -> Heads:
        """Attend."""
        self.check_length(q.shape[2])
        mixing = self.mixing[: q.shape[2]].T  # (k, n)
        padding = ~mask[:, None, :, None]
        k, v = (mixing @ states.masked_fill(padding, 0) for states in (k, v))  # (B, H, k, d)
        return F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout)
