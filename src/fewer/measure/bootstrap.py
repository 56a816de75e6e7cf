"""Paired bootstrap: how sure the difference of two systems on the same texts is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from fewer.measure.scorers import Scorer

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CONFIDENCE", "Interval", "paired_difference"]

CONFIDENCE = 0.95
RESAMPLES = 2000
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
    from scipy.stats import bootstrap

    each = [(scorer.each(a), scorer.each(b)) for a, b in zip(answers, references, strict=True)]
    differences = [(a - b)[list(rows)].numpy() for a, b in each if a is not None and b is not None]
    statistic: Callable[..., Any] = np.mean
    data, resamples = np.asarray(rows), SLOW_RESAMPLES
    if differences:
        data, resamples = np.mean(differences, axis=0), RESAMPLES
    else:
        statistic = partial(_difference, scorer, answers, references)
    mean = float(statistic(data))
    if len(rows) < 2:
        return Interval(mean, mean, mean)
    result = bootstrap(
        (data,),
        statistic,
        n_resamples=resamples,
        batch=200 if differences else None,
        vectorized=bool(differences),
        confidence_level=CONFIDENCE,
        method="percentile",
        random_state=np.random.default_rng(seed),
    )
    interval = result.confidence_interval
    return Interval(mean, float(interval.low), float(interval.high))


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
