"""Metrics of rankings: nDCG@k, MRR@k and MAP, each the mean over queries.

As in trec_eval the gain of nDCG is the grade itself. Equal scores win nothing: nDCG averages over
their orders (scikit-learn), MRR and MAP count the least favourable one. MRR and MAP take a document
with a relevance above 0 as relevant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["has_relevant", "ndcg_of_each", "score_rankings"]

CUTOFF = 10


def score_rankings(
    scores: ArrayLike, relevance: ArrayLike, queries: Sequence[int]
) -> dict[str, float]:
    """Score the ranking of each query's documents by `scores`; higher is better.

    All three have one number per document; `queries` are those of the documents. Queries without a
    relevant document are left out; 0.0 where no query has one.

    >>> score_rankings([0.9, 0.1, 0.5, 0.4], [0, 1, 2, 1], [7, 7, 8, 8])
    {'ndcg@10': 0.815..., 'mrr@10': 0.75, 'map': 0.75}
    """
    from sklearn.metrics import label_ranking_average_precision_score, ndcg_score

    ranked, grades = _tables(scores, relevance, queries)
    is_scored = grades.max(1, initial=0) > 0
    ranked, grades = ranked[is_scored], grades[is_scored]
    if not len(ranked):
        return {f"ndcg@{CUTOFF}": 0.0, f"mrr@{CUTOFF}": 0.0, "map": 0.0}
    return {
        f"ndcg@{CUTOFF}": float(ndcg_score(grades, ranked, k=CUTOFF)),
        f"mrr@{CUTOFF}": float(_reciprocal_ranks(ranked, grades > 0).mean()),
        "map": float(label_ranking_average_precision_score(grades > 0, ranked)),
    }


def ndcg_of_each(
    scores: ArrayLike, relevance: ArrayLike, queries: Sequence[int]
) -> NDArray[np.float64]:
    """Return nDCG@10 of each query, in the order of their numbers.

    It is NaN for one without a relevant document.
    """
    from sklearn.metrics import ndcg_score

    ranked, grades = _tables(scores, relevance, queries)
    values = np.full(len(ranked), np.nan)
    for row in np.flatnonzero(grades.max(1, initial=0) > 0):
        values[row] = ndcg_score(grades[row, None], ranked[row, None], k=CUTOFF)
    return values


def has_relevant(relevance: ArrayLike, queries: Sequence[int]) -> NDArray[np.bool_]:
    """Return which queries have a relevant document, in the order of their numbers."""
    numbers, inverse = np.unique(np.asarray(queries), return_inverse=True)
    hits = np.bincount(inverse, np.asarray(relevance) > 0, minlength=len(numbers))
    flags: NDArray[np.bool_] = hits > 0
    return flags


def _tables(
    scores: ArrayLike, relevance: ArrayLike, queries: Sequence[int]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Lay out scores and grades as (queries, documents); padding ranks last and has no grade."""
    values, targets = np.asarray(scores, np.float64), np.asarray(relevance, np.float64)
    if not values.shape == targets.shape == (len(queries),) or not len(queries):
        raise ValueError(
            f"scores, relevance and queries must have one number per document; got "
            f"{values.shape}, {targets.shape} and {len(queries)} queries."
        )
    broken = np.flatnonzero(~np.isfinite(values))
    if len(broken):
        raise ValueError(
            f"scores must be finite; got {values[broken[0]]} in row {broken[0]} and {len(broken)} "
            "rows in all. Check the model and its training."
        )
    _, inverse, counts = np.unique(np.asarray(queries), return_inverse=True, return_counts=True)
    order = inverse.argsort(kind="stable")
    columns = np.arange(len(order)) - np.repeat(counts.cumsum() - counts, counts)
    shape = (len(counts), max(2, counts.max()))  # scikit-learn ranks no single document
    ranked, grades = np.full(shape, values.min() - 1), np.zeros(shape)
    ranked[inverse[order], columns] = values[order]
    grades[inverse[order], columns] = targets[order]
    return ranked, grades


def _reciprocal_ranks(scores: NDArray[Any], relevant: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return 1 / rank of the first relevant document; 0 beyond the cutoff."""
    best = np.where(relevant, scores, -np.inf).max(1, keepdims=True)
    ranks = 1 + ((scores >= best) & ~relevant).sum(1)
    values: NDArray[np.float64] = np.where(ranks <= CUTOFF, 1 / ranks, 0.0)
    return values
