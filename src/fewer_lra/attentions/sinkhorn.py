"""Sparse Sinkhorn attention (Tay et al., ICML 2020, https://arxiv.org/abs/2002.11296).

Texts are cut into blocks of b. A block reads itself, and a mixture of blocks that is learned to be
near a permutation:

    S = kappa W        kappa_u = sum of the keys of block u;  W: learned, a head's own
    P = Sinkhorn(S / tau)        columns and rows of exp(S / tau) normalised in turns
    o = Att(Q_u, K_u, V_u) + Att(Q_u, sum_v P_uv K_v, sum_v P_uv V_v)

O(n b d + (n / b)^2). While training, Gumbel noise is added to S, as in the paper.

What differs from the arena's code, and why:

- Blocks are sorted. Theirs summed over the wrong index, so each sorted block was the sum of all.
- P is a Sinkhorn matrix; theirs was a softmax.
- Blocks are neighbours; theirs were every n/b-th token. n need not be a multiple of b.
- A mixed key that is real by a share takes part by this share, and blocks of padding are not
  sorted. Theirs masked padding where it stood before.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fewer.kernels.call import log_gate, masked_score
from fewer_lra.attentions.base import Attention, AttentionShape, Heads, Mask, States, positive

__all__ = ["Sinkhorn", "doubly_normalised"]


class Sinkhorn(Attention):
    """Blocks read themselves and the blocks that were sorted to their place."""

    def __init__(
        self,
        shape: AttentionShape,
        *,
        block: int = 50,
        iterations: int = 7,
        temperature: float = 0.75,
        noise: float = 1.0,
    ) -> None:
        super().__init__(shape)
        if temperature <= 0 or noise < 0:
            raise ValueError(
                f"temperature is {temperature} and noise {noise}; wanted a positive temperature "
                "and a noise of 0 or more"
            )
        self.block = positive("block", block)
        self.iterations = positive("iterations", iterations)
        self.temperature, self.noise = temperature, noise
        blocks = -(-shape.max_length // block)
        sorting = torch.randn(shape.heads, shape.width, blocks) * shape.width**-0.5
        self.sorting = nn.Parameter(sorting)  # W

    def forward(self, q: Heads, k: Heads, v: Heads, hidden: States, mask: Mask) -> Heads:
        """Attend."""
        self.refuse_longer(q.shape[2])
        length, more = q.shape[2], -q.shape[2] % self.block
        k, v = (side.masked_fill(~mask[:, None, :, None], 0) for side in (k, v))
        q, k, v = (
            F.pad(side, (0, 0, 0, more)).unflatten(2, (-1, self.block)) for side in (q, k, v)
        )  # (B, H, N, b, d)
        real = F.pad(mask, (0, more)).unflatten(1, (-1, self.block))[:, None]  # (B, 1, N, b)
        order = self.order(k, real.any(-1))
        share = order @ real.to(order.dtype)  # (B, H, N, b): how far a mixed key is real
        near = F.scaled_dot_product_attention(
            q, k, v, attn_mask=real[..., None, :], dropout_p=self.dropout
        )
        k, v = ((order @ side.flatten(3)).view_as(side) for side in (k, v))
        far = F.scaled_dot_product_attention(
            q, k, v, attn_mask=log_gate(share)[..., None, :].to(q.dtype), dropout_p=self.dropout
        )
        return (near + far).flatten(2, 3)[:, :, :length]

    def order(
        self, keys: Float[Tensor, "B H N b d"], real: Bool[Tensor, "B 1 N"]
    ) -> Float[Tensor, "B H N N"]:
        """Say which blocks come to the place of each; 0 for blocks of padding."""
        scores = keys.sum(3) @ self.sorting[..., : keys.shape[2]]
        if self.training and self.noise:
            scores = scores - self.noise * torch.empty_like(scores).exponential_().log()
        return doubly_normalised(scores / self.temperature, real, self.iterations)


def doubly_normalised(
    scores: Float[Tensor, "... N N"], real: Bool[Tensor, "... N"], iterations: int
) -> Float[Tensor, "... N N"]:
    """Normalise exp(scores) among real rows and columns, by columns and rows in turns, rows last.

    What is not real gets 0.
    """
    unreal = ~(real[..., :, None] & real[..., None, :])
    scores = scores.masked_fill(unreal, masked_score(scores.dtype))
    for _ in range(iterations):
        for axis in (-2, -1):
            scores = scores - scores.logsumexp(axis, keepdim=True)
            scores = scores.masked_fill(unreal, masked_score(scores.dtype))
    return scores.exp()
