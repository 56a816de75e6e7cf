"""Performer (Choromanski et al., ICLR 2021, https://arxiv.org/abs/2009.14794): FAVOR+.

    o_i = phi(q_i)^T (sum_j phi(k_j) v_j^T) / phi(q_i)^T sum_j phi(k_j)
    phi(x) = m^(-1/2) (exp(W x' - ||x'||^2 / 2 - c) + epsilon)        x' = x / d^(1/4)

W: m x d, blocks of orthogonal rows with the lengths of Gaussian ones; c: the largest exponent, of
each query, and of all keys of a head. The products of features estimate the exponentials of the
softmax, without bias as epsilon goes to 0, with an error of m^(-1/2). O(n m d).

What differs from the arena's code, and why:

- The features are random; theirs were relu(x) + 1e-3 by default.
- phi(k_j) is 0 at padding, and c is over tokens only. Theirs read padding.
- c bounds the whole exponent, where the authors' bounds W x' and large queries sink into epsilon.
- W is drawn once, from the layer index, and not redrawn in training.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fewer._validation.settings import checked
from fewer._validation.types import Count, Positive
from fewer.kernels.call import masked_score
from fewer_lra.attentions.base import Attention, AttentionSpec, Heads, Mask, States
from fewer_lra.attentions.linear import kernel_attention

__all__ = ["PerformerAttention", "draw_orthogonal"]


class PerformerAttention(Attention):
    """Scores are products of positive random features."""

    projection: Tensor

    @checked
    def __init__(
        self, spec: AttentionSpec, *, features: Count = 256, epsilon: Positive = 1e-6
    ) -> None:
        super().__init__(spec)
        self.epsilon = epsilon  # sums divide by it
        generator = torch.Generator().manual_seed(spec.layer)
        projection = draw_orthogonal(features, spec.width, generator)
        self.register_buffer("projection", projection)  # W

    def forward(self, q: Heads, k: Heads, v: Heads, hidden: States, mask: Mask) -> Heads:
        """Attend."""
        with torch.autocast(q.device.type, enabled=False):
            log_q, log_k = self._exponents(q), self._exponents(k)  # (B, H, n, m)
            log_k = log_k.masked_fill(~mask[:, None, :, None], masked_score(log_k.dtype))
            log_q = log_q - log_q.detach().amax(-1, keepdim=True)
            log_k = log_k - log_k.detach().amax((-2, -1), keepdim=True)
            phi_q, phi_k = log_q.exp() + self.epsilon, log_k.exp() + self.epsilon
        scale = self.projection.shape[0] ** -0.5
        return kernel_attention(phi_q * scale, phi_k * scale, v, mask, 0.0)

    def _exponents(self, x: Heads) -> Float[Tensor, "B H n m"]:
        high = torch.promote_types(x.dtype, torch.float32)
        x = x.to(high) * x.shape[-1] ** -0.25
        exponents: Tensor = x @ self.projection.T.to(high) - x.square().sum(-1, keepdim=True) / 2
        return exponents


def draw_orthogonal(count: int, width: int, generator: torch.Generator) -> Float[Tensor, "m d"]:
    """Draw Gaussian vectors, orthogonal within each block of `width`."""
    blocks = []
    for _ in range(-(-count // width)):
        basis, triangle = torch.linalg.qr(torch.randn(width, width, generator=generator))
        # with these signs the QR is unique, so the basis is uniform
        blocks.append((basis * triangle.diagonal().sign()).T)
    lengths = torch.randn(count, width, generator=generator).norm(dim=1, keepdim=True)
    vectors: Tensor = torch.cat(blocks)[:count] * lengths
    return vectors
