"""Paired bootstrap: how sure the difference of two systems on the same texts is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from fewer.measure.scorers import Scorer

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CONFIDENCE", "Interval", "mean_difference", "paired_difference", "paired_mean"]

CONFIDENCE = 0.95
RESAMPLES = 2000
MOST_KEPT = 20_000  # texts of which all resamples are kept for the next pair, 300 MB
_TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
SLOW_RESAMPLES = 300  # of a score that is no mean over texts, and is computed anew each time


@dataclass(frozen=True)
class Interval:
    """A mean difference and its percentile interval."""

    mean: float
    low: float
    high: float


def paired_difference(
    scorer: Scorer,
    answers: Sequence[Any],
    references: Sequence[Any],
    rows: Sequence[int],
    *,
    seed: int = 0,
) -> Interval:
    """Bootstrap the difference of the first metric on these texts, averaged over pairs (seeds).

    Texts are drawn with replacement, the same for all systems and seeds: the interval tells what
    other texts would give with these trained models, at 95 % confidence.
    """
    interval = mean_difference(scorer, answers, references, rows, seed=seed)
    return interval or _resample_score(scorer, answers, references, rows, seed)


def mean_difference(
    scorer: Scorer,
    answers: Sequence[Any],
    references: Sequence[Any],
    rows: Sequence[int],
    *,
    seed: int = 0,
) -> Interval | None:
    """Do as `paired_difference`; return `None` where the first metric is no mean over texts."""
    each = [(scorer.each(a), scorer.each(b)) for a, b in zip(answers, references, strict=True)]
    gaps = [(a - b)[list(rows)].numpy() for a, b in each if a is not None and b is not None]
    if not gaps:
        return None
    mean_gaps = np.mean(gaps, axis=0)
    return paired_mean(mean_gaps[~np.isnan(mean_gaps)], seed=seed)


def paired_mean(gaps: NDArray[Any], *, seed: int = 0) -> Interval:
    """Bootstrap the mean of paired differences, one per text (or query); draws as above."""
    if len(gaps) <= MOST_KEPT:
        means = _draws(len(gaps), seed) @ gaps
    else:
        draw = np.random.default_rng(seed)
        means = [float(_draw_weights(draw, len(gaps), 1)[0] @ gaps) for _ in range(RESAMPLES)]
    low, high = np.quantile(means, _TAILS)
    return Interval(float(gaps.mean()), float(low), float(high))


@lru_cache(maxsize=8)
def _draws(texts: int, seed: int) -> NDArray[Any]:
    """Return the weight of each text in each resample, the same for all pairs of systems."""
    return _draw_weights(np.random.default_rng(seed), texts, RESAMPLES)


def _draw_weights(draw: np.random.Generator, texts: int, resamples: int) -> NDArray[Any]:
    return draw.multinomial(texts, np.full(texts, 1 / texts), size=resamples) / texts


def _resample_score(
    scorer: Scorer,
    answers: Sequence[Any],
    references: Sequence[Any],
    rows: Sequence[int],
    seed: int,
) -> Interval:
    """Bootstrap a metric that is no mean over texts: it is computed anew for each resample."""
    statistic, numbers = partial(_difference, scorer, answers, references), np.asarray(rows)
    draw = np.random.default_rng(seed)
    drawn = [statistic(draw.choice(numbers, len(numbers))) for _ in range(SLOW_RESAMPLES)]
    low, high = np.quantile(drawn, _TAILS)
    return Interval(statistic(numbers), float(low), float(high))


def _difference(
    scorer: Scorer, answers: Sequence[Any], references: Sequence[Any], rows: NDArray[Any]
) -> float:
    gaps = [
        _first(scorer.score(a, rows.tolist())) - _first(scorer.score(b, rows.tolist()))
        for a, b in zip(answers, references, strict=True)
    ]
    return float(np.mean(gaps))


def _first(metrics: dict[str, float]) -> float:
    return next(iter(metrics.values()))
