"""Temperatures fitted to held-out answers, thresholds to a share of FLOPs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fewer.core.policy import CalibrationData, Dial, TrainingBatch
from fewer.methods.exits.criteria import Criterion

__all__ = [
    "check_threshold",
    "fit_temperatures",
    "fitted_temperature",
    "fitted_threshold",
    "open_exits",
]

WIDEST = 4.0  # of |ln T|
CLOSE = 0.002  # of a share


def fitted_temperature(logits: Float[Tensor, "R C"], labels: Int[Tensor, "R"]) -> float:
    """T > 0 that minimises the negative log-likelihood of softmax(z / T): Guo et al. (2017).

    The logarithm is searched, so T cannot cross 0; never worse than T = 1 on these rows.
    """
    from scipy.optimize import minimize_scalar

    logits, labels = logits.detach().double().cpu(), labels.cpu()

    def likelihood(log_t: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits / math.exp(log_t), labels))

    found = minimize_scalar(likelihood, bounds=(-WIDEST, WIDEST), method="bounded")
    return math.exp(found.x) if found.fun < likelihood(0.0) else 1.0


def fit_temperatures(
    temperature: Float[Tensor, "E"],
    rehearsal: CalibrationData,
    told: Callable[[Sequence[TrainingBatch], int], tuple[Tensor, Tensor]],
) -> None:
    """Fit the temperatures of all exits, in place; without held-out answers they stay.

    `told` collects what an exit, by its number, said in all lessons: logits (R, C), labels (R,).
    """
    lessons = list(rehearsal.lessons())
    for number, old in enumerate(temperature.tolist() if lessons else ()):
        logits, labels = told(lessons, number)
        temperature[number] = fitted_temperature(logits * old, labels)


def fitted_threshold(
    criterion: Criterion,
    grid: Sequence[float],
    target: float,
    share_at: Callable[[float], float],
) -> float:
    """Find the strictest threshold at which the share of FLOPs is at most `target`.

    `grid` holds thresholds to try first, from strict to eager. `share_at(threshold)` measures the
    share; it falls as the threshold grows more eager. Warns where even the most eager takes more.
    """
    known = [criterion.never, *grid, criterion.eager]
    strict, eager = 0, len(known) - 1
    if (least := share_at(known[eager])) > target:
        warnings.warn(
            f"exits keep {least:.3f} of the FLOPs even where every text leaves at the first, more "
            f"than the target of {target}; give an earlier exit or a higher target",
            stacklevel=2,
        )
        return known[eager]
    while eager - strict > 1:
        middle = (strict + eager) // 2
        strict, eager = (strict, middle) if share_at(known[middle]) <= target else (middle, eager)
    low, high = known[strict], known[eager]
    if not criterion.continuous or not math.isfinite(low + high):
        return high
    for _ in range(8):
        between = (low + high) / 2
        share = share_at(between)
        low, high = (low, between) if share <= target else (between, high)
        if target - CLOSE <= share <= target:
            break
    return high


def open_exits(
    dial: Dial,
    criterion: Criterion,
    threshold: float | None,
    target: float | None,
    rehearsal: CalibrationData,
) -> None:
    """Set a policy's threshold `dial` as asked: a value, a share of FLOPs, or the usual."""

    def share_at(value: float) -> float:
        dial.value.fill_(value)
        return rehearsal.share()

    if target is not None:
        dial.value.fill_(fitted_threshold(criterion, dial.grid, target, share_at))
    else:
        dial.value.fill_(criterion.usual if threshold is None else threshold)


def check_threshold(criterion: Criterion, threshold: float | None, target: float | None) -> None:
    """Raise `ValueError` for a threshold or a target outside its range, or for both."""
    if threshold is not None and target is not None:
        raise ValueError("threshold and target are both given; wanted one of them")
    if threshold is not None:
        criterion.check(threshold)
    if target is not None and not 0 < target < 1:
        raise ValueError(
            f"target is {target}, wanted the share of FLOPs to keep, in (0, 1), or None"
        )
