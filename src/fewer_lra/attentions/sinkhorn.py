"""Sparse Sinkhorn attention (Tay et al., ICML 2020, https://arxiv.org/abs/2002.11296).

Texts are cut into blocks of b. A block reads itself and a mixture of blocks, which is learned and
close to a permutation:

    S = kappa W        kappa_u = sum of the keys of block u;  W: learned, per head
    P = Sinkhorn(S / tau)        columns and rows of exp(S / tau) normalised alternately
    o = Att(Q_u, K_u, V_u) + Att(Q_u, sum_v P_uv K_v, sum_v P_uv V_v)

O(n b d + (n / b)^2). In training Gumbel noise is added to S, as in the paper.

What differs from the arena's code, and why:

- Blocks are sorted. Theirs summed over the wrong index, so each sorted block was the sum of all.
- P is a Sinkhorn matrix; theirs was a softmax.
- Blocks are neighbours; theirs were every n/b-th token. n need not be a multiple of b.
- A mixed key has the share of its tokens as a gate, and blocks of padding are not sorted. Theirs
  masked padding at its original place.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fewer._validation.settings import checked
from fewer._validation.types import Count, NonNegative, Positive
from fewer.kernels.call import log_gate, masked_score
from fewer_lra.attentions.base import Attention, AttentionSpec, Heads, Mask, States

__all__ = ["SinkhornAttention", "sinkhorn_normalize"]


class SinkhornAttention(Attention):
    """Blocks read themselves and the block that is sorted to their place."""

    @checked
    def __init__(
        self,
        spec: AttentionSpec,
        *,
        block: Count = 50,
        iterations: Count = 7,
        temperature: Positive = 0.75,
        noise: NonNegative = 1.0,
    ) -> None:
        super().__init__(spec)
        self.block, self.iterations = block, iterations
        self.temperature, self.noise = temperature, noise
        blocks = -(-spec.max_length // block)
        sorting = torch.randn(spec.heads, spec.width, blocks) * spec.width**-0.5
        self.sorting = nn.Parameter(sorting)  # W

    def forward(self, q: Heads, k: Heads, v: Heads, hidden: States, mask: Mask) -> Heads:
        """Attend."""
        self.check_length(q.shape[2])
        length, padding = q.shape[2], -q.shape[2] % self.block
        k, v = (states.masked_fill(~mask[:, None, :, None], 0) for states in (k, v))
        q, k, v = (
            F.pad(states, (0, 0, 0, padding)).unflatten(2, (-1, self.block)) for states in (q, k, v)
        )  # (B, H, N, b, d)
        is_token = F.pad(mask, (0, padding)).unflatten(1, (-1, self.block))[:, None]  # (B, 1, N, b)
        order = self.order(k, is_token.any(-1))
        share = order @ is_token.to(order.dtype)  # (B, H, N, b): of tokens in a mixed key
        local = F.scaled_dot_product_attention(
            q, k, v, attn_mask=is_token[..., None, :], dropout_p=self.dropout
        )
        k, v = ((order @ states.flatten(3)).view_as(states) for states in (k, v))
        sorted_context = F.scaled_dot_product_attention(
            q, k, v, attn_mask=log_gate(share)[..., None, :].to(q.dtype), dropout_p=self.dropout
        )
        return (local + sorted_context).flatten(2, 3)[:, :, :length]

    def order(
        self, keys: Float[Tensor, "B H N b d"], real: Bool[Tensor, "B 1 N"]
    ) -> Float[Tensor, "B H N N"]:
        """Return the weights of the blocks sorted to each place; 0 for blocks of padding."""
        scores = keys.sum(3) @ self.sorting[..., : keys.shape[2]]
        if self.training and self.noise:
            scores = scores - self.noise * torch.empty_like(scores).exponential_().log()
        return sinkhorn_normalize(scores / self.temperature, real, self.iterations)


def sinkhorn_normalize(
    scores: Float[Tensor, "... N N"], real: Bool[Tensor, "... N"], iterations: int
) -> Float[Tensor, "... N N"]:
    """Normalise columns and rows of exp(scores) alternately, rows last.

    Rows and columns that are not `real` get 0.
    """
    is_padding = ~(real[..., :, None] & real[..., None, :])
    scores = scores.masked_fill(is_padding, masked_score(scores.dtype))
    for _ in range(iterations):
        for axis in (-2, -1):
            scores = scores - scores.logsumexp(axis, keepdim=True)
            scores = scores.masked_fill(is_padding, masked_score(scores.dtype))
    return scores.exp()
