"""Performer (Choromanski et al., ICLR 2021, https://arxiv.org/abs/2009.14794): FAVOR+.

    o_i = phi(q_i)^T (sum_j phi(k_j) v_j^T) / phi(q_i)^T sum_j phi(k_j)
    phi(x) = m^(-1/2) (exp(W x' - ||x'||^2 / 2 - c) + epsilon)        x' = x / d^(1/4)

W: m x d, blocks of orthogonal rows with the lengths of Gaussian ones; c: the largest exponent, of
each query, and of all keys of a head. The products of features are estimates of the softmax's
exponentials, without bias as epsilon goes to 0, with an error of m^(-1/2). O(n m d).

What differs from the arena's code, and why:

- It has random features at all; theirs ran on relu(x) + 1e-3 unless told otherwise.
- phi(k_j) is 0 at padding, and c looks at real keys only. Theirs read padding.
- c bounds the whole exponent, where the authors' bounds W x' and large queries sink into epsilon.
- W is drawn once, by the layer's number, and not redrawn while training.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fewer.kernels.call import masked_score
from fewer_lra.attentions.base import Attention, AttentionShape, Heads, Mask, States, positive
from fewer_lra.attentions.linear import kernel_attention

__all__ = ["Performer", "orthogonal"]


class Performer(Attention):
    """Scores are products of positive random features."""

    directions: Tensor

    def __init__(
        self, shape: AttentionShape, *, features: int = 256, epsilon: float = 1e-6
    ) -> None:
        super().__init__(shape)
        if epsilon <= 0:
            raise ValueError(f"epsilon is {epsilon}, wanted a positive number: sums divide by it")
        self.epsilon = epsilon
        generator = torch.Generator().manual_seed(shape.layer)
        drawn = orthogonal(positive("features", features), shape.width, generator)
        self.register_buffer("directions", drawn)  # W

    def forward(self, q: Heads, k: Heads, v: Heads, hidden: States, mask: Mask) -> Heads:
        """Attend."""
        with torch.autocast(q.device.type, enabled=False):
            of_q, of_k = self._exponents(q), self._exponents(k)  # (B, H, n, m)
            of_k = of_k.masked_fill(~mask[:, None, :, None], masked_score(of_k.dtype))
            of_q = of_q - of_q.detach().amax(-1, keepdim=True)
            of_k = of_k - of_k.detach().amax((-2, -1), keepdim=True)
            of_q, of_k = ((side.exp() + self.epsilon) for side in (of_q, of_k))
        few = self.directions.shape[0] ** -0.5
        return kernel_attention(of_q * few, of_k * few, v, mask, 0.0)

    def _exponents(self, x: Heads) -> Float[Tensor, "B H n m"]:
        high = torch.promote_types(x.dtype, torch.float32)
        x = x.to(high) * x.shape[-1] ** -0.25
        exponents: Tensor = x @ self.directions.T.to(high) - x.square().sum(-1, keepdim=True) / 2
        return exponents


def orthogonal(count: int, width: int, generator: torch.Generator) -> Float[Tensor, "m d"]:
    """Draw directions that are uniform, with Gaussian lengths, and orthogonal `width` at a time."""
    blocks = []
    for _ in range(-(-count // width)):
        basis, triangle = torch.linalg.qr(torch.randn(width, width, generator=generator))
        # a QR is unique, hence the basis uniform, only with signs settled
        blocks.append((basis * triangle.diagonal().sign()).T)
    lengths = torch.randn(count, width, generator=generator).norm(dim=1, keepdim=True)
    directions: Tensor = torch.cat(blocks)[:count] * lengths
    return directions
