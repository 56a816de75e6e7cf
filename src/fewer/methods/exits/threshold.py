"""Temperatures fitted to held-out labels, thresholds to a FLOPs ratio."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fewer.core.learning import CalibrationData, TrainingBatch
from fewer.core.operating_points import OperatingPoints
from fewer.methods.exits.criteria import Criterion

__all__ = [
    "check_threshold",
    "fit_temperatures",
    "fitted_temperature",
    "fitted_threshold",
    "open_exits",
]

WIDEST = 4.0  # of |ln T|
CLOSE = 0.002  # of a ratio


def fitted_temperature(logits: Float[Tensor, "R C"], labels: Tensor) -> float:
    """T > 0 that minimises the negative log-likelihood of softmax(z / T): Guo et al. (2017).

    `labels` are classes (R); or 0.0 and 1.0 of independent labels (R, C), of sigmoid(z / T). The
    logarithm is searched, so T cannot cross 0; never worse than T = 1 on these rows.
    """
    from scipy.optimize import minimize_scalar

    logits, labels = logits.detach().double().cpu(), labels.cpu()
    loss: Callable[[Tensor, Tensor], Tensor] = torch.nn.functional.cross_entropy
    if labels.is_floating_point():
        labels = labels.double().reshape(logits.shape)
        loss = torch.nn.functional.binary_cross_entropy_with_logits

    def likelihood(log_t: float) -> float:
        return float(loss(logits / math.exp(log_t), labels))

    result = minimize_scalar(likelihood, bounds=(-WIDEST, WIDEST), method="bounded")
    return math.exp(result.x) if result.fun < likelihood(0.0) else 1.0


def fit_temperatures(
    temperature: Float[Tensor, "E"],
    data: CalibrationData,
    collect_logits: Callable[[Sequence[TrainingBatch], int], tuple[Tensor, Tensor]],
) -> None:
    """Fit the temperatures of all exits, in place; without held-out labels they stay.

    `collect_logits` collects those of an exit, by its number: logits (R, C), labels (R,).
    """
    batches = list(data.batches())
    for number, old in enumerate(temperature.tolist() if batches else ()):
        logits, labels = collect_logits(batches, number)
        temperature[number] = fitted_temperature(logits * old, labels)


def fitted_threshold(
    criterion: Criterion,
    grid: Sequence[float],
    target: float,
    ratio_at: Callable[[float], float],
) -> float:
    """Find the strictest threshold at which the FLOPs ratio is at most `target`.

    `grid` holds thresholds to try first, from strict to eager. `ratio_at(threshold)` measures the
    ratio; it falls as the threshold grows more eager. Warns where even the most eager takes more.
    """
    thresholds = [criterion.never_exit, *grid, criterion.always_exit]
    strict, eager = 0, len(thresholds) - 1
    if (least := ratio_at(thresholds[eager])) > target:
        warnings.warn(
            f"exits keep {least:.3f} of the FLOPs even where every text exits at the first, more "
            f"than the target of {target}; give an earlier exit or a higher target",
            stacklevel=2,
        )
        return thresholds[eager]
    while eager - strict > 1:
        middle = (strict + eager) // 2
        strict, eager = (
            (strict, middle) if ratio_at(thresholds[middle]) <= target else (middle, eager)
        )
    low, high = thresholds[strict], thresholds[eager]
    if not criterion.continuous or not math.isfinite(low + high):
        return high
    for _ in range(8):
        between = (low + high) / 2
        ratio = ratio_at(between)
        low, high = (low, between) if ratio <= target else (between, high)
        if target - CLOSE <= ratio <= target:
            break
    return high


def open_exits(
    points: OperatingPoints,
    criterion: Criterion,
    threshold: float | None,
    target: float | None,
    data: CalibrationData,
) -> None:
    """Set a policy's threshold: to a given value, to a FLOPs ratio, or to the default."""

    def ratio_at(value: float) -> float:
        points.value.fill_(value)
        return data.flops_ratio()

    if target is not None:
        points.value.fill_(fitted_threshold(criterion, points.thresholds, target, ratio_at))
    else:
        points.value.fill_(criterion.default if threshold is None else threshold)


def check_threshold(criterion: Criterion, threshold: float | None, target: float | None) -> None:
    """Raise `ValueError` for a threshold outside its range, or with a target."""
    if threshold is not None and target is not None:
        raise ValueError(
            f"threshold must be absent with a target; got threshold={threshold}, target={target}. "
            "Give one of them."
        )
    if threshold is not None:
        criterion.check(threshold)
