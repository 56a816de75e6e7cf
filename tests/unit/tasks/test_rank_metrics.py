"""nDCG, MRR and MAP: by hand, as sentence-transformers computes them, and with equal scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, ndcg_score

from fewer.tasks.rank_metrics import has_relevant, ndcg_of_each, score_rankings


def test_a_ranking_by_hand():
    # grades in the order of the scores: 0, 2, 1
    result = score_rankings([0.1, 0.9, 0.5], [1, 0, 2], [0, 0, 0])
    gain, ideal = 2 / math.log2(3) + 1 / math.log2(4), 2 + 1 / math.log2(3)
    assert result == pytest.approx({"ndcg@10": gain / ideal, "mrr@10": 1 / 2, "map": 7 / 12})


def test_ragged_queries_are_averaged_as_one_by_one():
    draw = np.random.default_rng(0)
    sizes = [1, 2, 5, 17, 9]
    queries = draw.permutation(np.repeat(np.arange(5), sizes))
    scores = draw.normal(size=len(queries))
    relevance = draw.integers(0, 3, size=len(queries))
    for query in range(5):  # at least one relevant document each
        relevance[np.flatnonzero(queries == query)[0]] = 2
    result = score_rankings(scores, relevance, queries.tolist())
    each = {"ndcg@10": [], "mrr@10": [], "map": []}
    for query in range(5):
        s, y = scores[queries == query], relevance[queries == query]
        each["ndcg@10"].append(ndcg_score([y], [s], k=10) if len(y) > 1 else 1.0)
        rank = 1 + next(k for k, row in enumerate((-s).argsort()) if y[row] > 0)
        each["mrr@10"].append(1 / rank if rank <= 10 else 0.0)
        each["map"].append(average_precision_score(y > 0, s))
    assert result == pytest.approx({name: np.mean(values) for name, values in each.items()})
    assert ndcg_of_each(scores, relevance, queries.tolist()) == pytest.approx(each["ndcg@10"])


def test_ranks_beyond_ten_count_nothing_but_in_map():
    scores, relevance = list(range(12, 0, -1)), [0] * 11 + [1]
    result = score_rankings(scores, relevance, [0] * 12)
    assert result == pytest.approx({"ndcg@10": 0.0, "mrr@10": 0.0, "map": 1 / 12})


def test_equal_scores_win_nothing():
    result = score_rankings([0.5] * 4, [1, 0, 0, 0], [0] * 4)
    expected = np.mean([1 / math.log2(rank + 1) for rank in (1, 2, 3, 4)])
    assert result == pytest.approx({"ndcg@10": expected, "mrr@10": 1 / 4, "map": 1 / 4})


def test_queries_without_a_relevant_document_are_left_out():
    scores, relevance, queries = [0.9, 0.1, 0.5, 0.4], [0, 1, 0, 0], [4, 4, 9, 9]
    assert has_relevant(relevance, queries).tolist() == [True, False]
    assert score_rankings(scores, relevance, queries) == score_rankings([0.9, 0.1], [0, 1], [0, 0])
    assert set(score_rankings([0.5], [0], [0]).values()) == {0.0}


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match=r"scores must be finite; got nan in row 1"):
        score_rankings([0.5, math.nan], [0, 1], [0, 0])
    with pytest.raises(ValueError, match="one number per document"):
        score_rankings([0.5], [0, 1], [0, 0])
