"""Linear Transformer (Katharopoulos et al., ICML 2020, https://arxiv.org/abs/2006.16236).

    o_i = phi(q_i)^T (sum_j phi(k_j) v_j^T) / (phi(q_i)^T sum_j phi(k_j) + 1e-6)
    phi(x) = elu(x) + 1

O(n d^2). Scores are not divided by sqrt(d). No probabilities are formed, so attention dropout has
no effect.

What differs from the arena's code, and why: phi(k_j) is 0 at padding. Theirs read it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fewer_lra.attentions.base import Attention, Heads, Mask, States

__all__ = ["LinearAttention", "kernel_attention"]


class LinearAttention(Attention):
    """Scores are products of features, summed over keys before queries are applied."""

    def forward(self, q: Heads, k: Heads, v: Heads, hidden: States, mask: Mask) -> Heads:
        """Attend."""
        return kernel_attention(F.elu(q) + 1, F.elu(k) + 1, v, mask, 1e-6)


def kernel_attention(
    q: Float[Tensor, "B H n m"], k: Float[Tensor, "B H n m"], v: Heads, mask: Mask, floor: float
) -> Heads:
    """Average values by the products of non-negative features; `floor` is added to the divisor.

    In fp32 or above, also under autocast: the sums run over a text.
    """
    high = torch.promote_types(v.dtype, torch.float32)
    with torch.autocast(v.device.type, enabled=False):
        k = k.to(high).masked_fill(~mask[:, None, :, None], 0)
        q = q.to(high)
        values = k.transpose(2, 3) @ v.to(high)  # (B, H, m, d)
        divisor = q @ k.sum(2)[..., None]  # (B, H, n, 1)
        return (q @ values / (divisor + floor)).to(v.dtype)
