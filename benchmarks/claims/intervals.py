"""Intervals of 95 percent for what result rows hold."""

from __future__ import annotations

import math
from typing import NamedTuple

__all__ = [
    "Interval",
    "area",
    "counted",
    "difference",
    "growth",
    "in_points",
    "paired_difference",
    "proportion",
    "rank_correlation",
]

_Z = 1.96


class Interval(NamedTuple):
    """A value with the limits of its interval; equal limits where nothing was sampled."""

    value: float
    low: float
    high: float

    @property
    def is_counted(self) -> bool:
        """Whether the value has no interval of its own."""
        return self.low == self.high


def counted(value: float) -> Interval:
    """Return a value that was counted or measured once."""
    return Interval(value, value, value)


def proportion(share: float, count: int) -> Interval:
    """Return Wilson's interval of a share of `count` draws.

    It is wide enough for any mean of `count` values in [0, 1], such as F1.
    """
    center = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    spread = share * (1 - share) / count + _Z**2 / (4 * count**2)
    margin = _Z * math.sqrt(spread) / (1 + _Z**2 / count)
    return Interval(share, center - margin, center + margin)


def paired_difference(value: float, baseline: float, changed: float, count: int) -> Interval:
    """Return the interval of a difference of accuracies on the same texts.

    `changed` is the share of texts whose answers differ. Of two classes each of these is right on
    one side; of more it may be wrong on both, and the interval is too wide.
    """
    gap = value - baseline
    return _around(gap, _Z * math.sqrt(max(0.0, changed - gap**2) / count))


def difference(value: float, baseline: float, count: int) -> Interval:
    """Return the interval of a difference of two means of `count` values in [0, 1] each.

    It takes them as independent (Newcombe, 1998, method 10). For the same texts it is too wide, as
    their answers agree.
    """
    first, second = proportion(value, count), proportion(baseline, count)
    gap = value - baseline
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    return Interval(gap, gap - below, gap + above)


def area(auc: float, positives: int, negatives: int) -> Interval:
    """Return the interval of an area under the ROC curve (Hanley and McNeil, 1982)."""
    return _around(auc, _Z * area_error(auc, positives, negatives))


def area_error(auc: float, positives: int, negatives: int) -> float:
    """Return the standard error of an area under the ROC curve, its cases independent."""
    first, second = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (positives - 1) * (first - auc**2)
    variance += (negatives - 1) * (second - auc**2)
    return math.sqrt(variance / (positives * negatives))


def rank_correlation(rho: float, count: int) -> Interval:
    """Return the interval of Spearman's rank correlation (Fisher's z; Fieller, 1957)."""
    margin = _Z * math.sqrt(1.06 / (count - 3))
    z = math.atanh(max(-1 + 1e-12, min(1 - 1e-12, rho)))
    return Interval(rho, math.tanh(z - margin), math.tanh(z + margin))


def growth(shorter: Interval, longer: Interval) -> Interval:
    """Return the exponent of a cost whose size doubled: 1 is linear, 2 quadratic."""
    return Interval(
        math.log2(longer.value / shorter.value),
        math.log2(longer.low / shorter.high),
        math.log2(longer.high / shorter.low),
    )


def in_points(interval: Interval) -> Interval:
    """Return an interval of a share in hundredths."""
    return Interval(*(100 * number for number in interval))


def _around(value: float, margin: float) -> Interval:
    return Interval(value, value - margin, value + margin)
