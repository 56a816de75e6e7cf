"""Draw rows of a task for a measurement: rows that are scored together stay together."""

from __future__ import annotations

from functools import singledispatch
from typing import TYPE_CHECKING

import numpy as np

from fewer.tasks.embedding import Retrieval
from fewer.tasks.reranking import Reranking

if TYPE_CHECKING:
    from datasets import Dataset

    from fewer.tasks.task import Encoding

__all__ = ["sample_rows"]


@singledispatch
def sample_rows(task: Encoding | None, rows: Dataset, count: int, seed: int) -> Dataset:
    """Draw so many rows with a seed; without labels there may be no task."""
    return rows.shuffle(seed=seed).select(range(count))


@sample_rows.register(Reranking)
def _(task: Reranking, rows: Dataset, count: int, seed: int) -> Dataset:
    """Draw whole queries, with all their documents, until `count` rows or more are drawn."""
    numbers = np.asarray(task.queries(rows))
    order = np.random.default_rng(seed).permutation(numbers.max() + 1)
    sizes = np.bincount(numbers)[order].cumsum()
    drawn_queries = order[: int((sizes < count).sum()) + 1]
    return rows.select(np.flatnonzero(np.isin(numbers, drawn_queries)).tolist())


@sample_rows.register(Retrieval)
def _(task: Retrieval, rows: Dataset, count: int, seed: int) -> Dataset:
    """Draw whole queries; only the documents of their rows are left to find."""
    return sample_rows(task.pairs, rows, count, seed)
