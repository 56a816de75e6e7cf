"""Weights in int8: an integer in [-127, 127] per number and a scale per output channel."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["MAX_ERROR", "MAX_INPUTS", "measure_error", "quantise"]

MAX_INPUTS = 65_536  # above, a sum of products of 8 bits might not fit 32 bits
MAX_ERROR = 0.05  # normally distributed weights have 0.01, the worst of MiniLM 0.02


def quantise(weight: Float[Tensor, "N K"]) -> tuple[Float[Tensor, "N K"], Float[Tensor, "N"]]:
    """Return the integers (as floats) and the scales: weight = scale * integer, symmetric."""
    scale = weight.abs().amax(1) / 127
    steps = torch.where(scale > 0, scale, 1.0)[:, None]
    return (weight / steps).round_().clamp_(-127, 127), scale


def measure_error(
    weight: Float[Tensor, "N K"], integers: Float[Tensor, "N K"], scale: Float[Tensor, "N"]
) -> float:
    """Return the relative error, sum |w - w'| / (sum |w| - max |w|), averaged over channels.

    The largest weight of a channel sets its scale. Left out below the line, an outlier cannot hide
    that the other weights of its channel are rounded to nothing.
    """
    size = weight.abs()
    error = (weight - integers * scale[:, None]).abs().sum(1)
    rest = size.sum(1) - size.amax(1)
    return float(torch.where(error > 0, error / rest, 0.0).mean())
