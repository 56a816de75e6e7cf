"""Attention received with gradients, from kernels that never form the matrix of probabilities.

Forward, s_j = sum over h and i of w_i A[h, i, j] comes from queries, keys and logsumexp. Backward,
the gradient of sum_j g_j s_j with respect to q and k is that of an ordinary attention whose values
are g and whose output has the gradient w: sum_j g_j s_j = sum_i w_i (A g)_i. So FlashAttention
computes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from fewer.kernels.gpu.flash import Ragged, attend

__all__ = ["received"]


def received(
    q: Float[Tensor, "Tq H d"],
    k: Float[Tensor, "Tk H d"],
    weight: Float[Tensor, "Tq"],
    ragged: Ragged,
    scale: float,
    window: int | None,
    compute: Callable[[], Float[Tensor, "Tk"]],
) -> Float[Tensor, "Tk"]:
    """Return what `compute` returns, the sums over h and i of `weight[i] * A[h, i, j]`, in fp32.

    Gradients reach q, k and `weight`.
    """
    apply: Any = _Received.apply
    scores: Tensor = apply(q, k, weight, ragged, scale, window, compute)
    return scores


class _Received(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        weight: Tensor,
        ragged: Ragged,
        scale: float,
        window: int | None,
        compute: Callable[[], Tensor],
    ) -> Tensor:
        ctx.save_for_backward(q, k, weight)
        ctx.attention = ragged, scale, window
        return compute()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, weight = ctx.saved_tensors
        # half precision has few exponents: both factors are brought to 1 at most
        size, weight_size = (_largest(values) for values in (grad, weight))
        values = _first_column(grad / size, k)
        grads = _first_column(weight / weight_size, q)
        with torch.enable_grad():
            queries, keys = q.detach().requires_grad_(), k.detach().requires_grad_()
            context, _ = attend(queries, keys, values, *ctx.attention)
            grad_q, grad_k = torch.autograd.grad(context, (queries, keys), grads)
        factor = size * weight_size
        mean = context[:, :, 0].detach().sum(1, dtype=torch.float32) * size
        return (
            (grad_q.float() * factor).to(q.dtype),
            (grad_k.float() * factor).to(k.dtype),
            mean.to(weight.dtype),
            *[None] * 4,
        )


def _largest(values: Tensor) -> Tensor:
    """Return the largest magnitude, on the device; 1 where all are 0."""
    if not values.numel():
        return values.new_ones(())
    largest = values.abs().amax()
    return largest.masked_fill(largest == 0, 1.0)


def _first_column(values: Float[Tensor, "T"], like: Float[Tensor, "T H d"]) -> Tensor:
    """Put values into the first column of every head, zeros into the others."""
    columns = torch.zeros_like(like)
    columns[:, :, 0] = values.to(like.dtype)[:, None]
    return columns
