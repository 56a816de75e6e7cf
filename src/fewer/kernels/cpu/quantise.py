"""Weights in int8: an integer in [-127, 127] per number and a scale per output channel."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["MAX_ERROR", "MAX_INPUTS", "measure_error", "quantise", "split_outliers"]

MAX_INPUTS = 32_768  # above, two sums of products of 8 bits might not fit 32 bits
MAX_ERROR = 0.05  # normally distributed weights have 0.01, the worst of MiniLM 0.02

MAX_COPIES = 32  # inputs added by `split_outliers`: one panel of the map that computes them


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


def split_outliers(weight: Float[Tensor, "N K"]) -> tuple[Float[Tensor, "N M"], list[int]]:
    """Split outliers of a weight over copies of their inputs (Zhao et al. 2019, arXiv:1901.09504).

    Returns the weight with at most `MAX_COPIES` columns more, and the inputs that they copy. The
    map does not change: the pieces of a number add up to it. Numbers above the limit, a multiple of
    the mean of the others, are split; the limit rises until there are few enough copies.
    """
    size = weight.abs()
    typical = (size.sum(1) - size.amax(1))[:, None] / max(1, size.shape[1] - 1)
    for limit in (16, 24, 32, 48, 64, 96, 128):
        pieces = (size / (limit * typical).clamp_min(1e-30)).ceil().clamp_min(1)  # of each number
        copies = pieces.amax(0) - 1  # of each input
        if copies.sum() <= MAX_COPIES:
            break
    else:
        return weight, []
    columns, inputs = [weight / pieces], []
    for j, count in enumerate(copies.int().tolist()):
        piece = (weight[:, j] / pieces[:, j])[:, None]
        columns += [piece * (number < pieces[:, j])[:, None] for number in range(1, count + 1)]
        inputs += [j] * count
    return torch.cat(columns, 1), inputs
