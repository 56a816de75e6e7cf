"""Synthesizer (Tay et al., ICML 2021, https://arxiv.org/abs/2005.00743): random, or factorised.

    o = softmax(R) V        R: learned, H x n x n; or R = R1 R2, of n x k and k x n
    o = softmax(R + Q K^T / sqrt(d)) V        with `dot`

O(n^2 d) in time; the parameters are H n^2, or 2 H n k.

What differs from the arena's code, and why: there k never reached the model, and Q K^T was always
added, so their Synthesizer was softmax attention with a learned bias of 64 million numbers per
layer at n = 4000. Here both are settings: `rank=32` is the value in their files, `dot=True` what
was computed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fewer._validation.settings import checked
from fewer._validation.types import Count
from fewer.kernels.call import masked_score
from fewer_lra.attentions.base import Attention, AttentionSpec, Heads, Mask, States

__all__ = ["SynthesizerAttention"]


class SynthesizerAttention(Attention):
    """Attention between columns is learned, and equal for all texts."""

    @checked
    def __init__(
        self, spec: AttentionSpec, *, rank: Count | None = None, dot: bool = False
    ) -> None:
        super().__init__(spec)
        self.dot = dot
        self.inputs = ("q", "k", "v") if dot else ("v",)
        heads, length = spec.heads, spec.max_length
        sizes = [(heads, length, length)]
        if rank is not None:
            sizes = [(heads, length, rank), (heads, rank, length)]
        scale = 1.0 if rank is None else rank**-0.25  # scores are N(0, 1) either way
        self.factors = nn.ParameterList(scale * torch.randn(size) for size in sizes)

    def forward(self, q: Heads, k: Heads, v: Heads, hidden: States, mask: Mask) -> Heads:
        """Attend."""
        self.check_length(v.shape[2])
        scores = self._learned_scores(v.shape[2])
        if self.dot:
            scores = scores + q @ k.transpose(2, 3) * q.shape[-1] ** -0.5  # (B, H, n, n)
        padding = ~mask[:, None, None]
        weights = scores.masked_fill(padding, masked_score(scores.dtype)).softmax(-1)
        context: Tensor = F.dropout(weights, self.dropout).to(v.dtype) @ v
        return context

    def _learned_scores(self, length: int) -> Float[Tensor, "H n n"]:
        if len(self.factors) == 1:
            scores: Tensor = self.factors[0][:, :length, :length]
        else:
            left, right = self.factors
            scores = left[:, :length] @ right[:, :, :length]
        return scores
