"""A reranker whose documents may leave is measured on lists, as `fewer.rank` reads them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from datasets import Dataset

import fewer
from fewer.inference.candidate_lists import CandidateLists, lower_unread
from fewer.measure.evaluate import predict as run
from fewer.measure.evaluate import run_all, run_systems, three_way
from fewer.measure.exit_runs import PointRuns
from fewer.measure.latency import default_sizes, latency
from fewer.measure.ranking_scorer import RankingScorer, for_best
from fewer.measure.scorers import TextScorer, make_scorer
from fewer.measure.sweep import sweep
from fewer.methods.combined import Stack
from fewer.methods.exits import Cascade
from fewer.methods.pruning import TrainingFree
from fewer.tasks.reranking import Reranking
from tests.tiny import tiny, word_tokenizer

TOKENIZER = word_tokenizer()
DOCUMENTS = [
    " ".join(f"w{(row * 7 + place * (row % 5 + 1)) % 50}" for place in range(3 + row % 9))
    for row in range(60)
]
QUERIES = [f"w{3 + row % 2} w9" for row in range(60)]  # rows of two queries, in turn
RELEVANCE = [float(row % 6 == 1 or row % 10 == 2) for row in range(60)]
TABLE = Dataset.from_dict({"query": QUERIES, "document": DOCUMENTS, "label": RELEVANCE})


@pytest.fixture(scope="module")
def model() -> Any:
    return fewer.set_threshold(_reranker(Cascade()), threshold=0.0)


def _reranker(method: Any) -> Any:
    torch.manual_seed(0)
    model = tiny(layers=4, width=16, num_labels=1, initializer_range=0.3)
    with torch.no_grad():
        model.classifier.weight.mul_(20)  # scores that differ
    return fewer.prune(model, TOKENIZER, QUERIES, text_pairs=DOCUMENTS, method=method)


@pytest.fixture(scope="module")
def encoded() -> Any:
    return Reranking().encode(TABLE, TOKENIZER, max_length=40, training=False)


def _scorer(top_k: int = 5) -> RankingScorer:
    scorer = make_scorer(Reranking(), TABLE)
    assert isinstance(scorer, RankingScorer)
    return RankingScorer(scorer.relevance, scorer.queries, top_k)


def test_the_best_of_each_query_and_the_flops_are_those_of_rank(model: Any, encoded: Any) -> None:
    outcome = run(model, encoded, TOKENIZER, _scorer())
    flops, spec = 0.0, fewer.attachment(model).spec
    for query in range(2):
        with fewer.record() as traces:
            ranked = fewer.rank(model, TOKENIZER, QUERIES[query], DOCUMENTS[query::2], top_k=5)
        flops += sum(float(spec.flops(trace).sum()) for trace in traces)
        scores = outcome.answers[query::2]
        best = scores.argsort(descending=True, stable=True)[:5].tolist()
        assert best == [entry.document for entry in ranked]
        assert scores[best].tolist() == pytest.approx([entry.score for entry in ranked])
    assert outcome.flops_per_text == pytest.approx(flops / 2)


def test_fewer_flops_than_the_packed_model_whose_best_document_stays_first(
    model: Any, encoded: Any
) -> None:
    results = three_way(model, encoded, TOKENIZER, _scorer())
    assert results["method"]["flops_per_text"] < 0.9 * results["packed"]["flops_per_text"]
    assert results["packed"]["changed"] == 0.0
    outcomes = run_systems(model, encoded, TOKENIZER, _scorer())
    first = RankingScorer(_scorer().relevance, _scorer().queries, top_k=1)
    assert first.changed(outcomes["method"].answers, outcomes["packed"].answers) == 0.0
    everything = three_way(model, encoded, TOKENIZER, _scorer(top_k=30))
    assert everything["method"]["metrics"] == everything["packed"]["metrics"]


def test_a_sweep_of_margins_trades_flops_for_the_score_of_lists(model: Any, encoded: Any) -> None:
    never, *points = sweep(model, encoded, TOKENIZER, _scorer())
    dense = three_way(model, encoded, TOKENIZER, _scorer())["packed"]
    assert never["metrics"] == pytest.approx(dense["metrics"])
    assert never["threshold"] is None
    flops = [point["flops_per_text"] for point in (never, *points)]
    assert all(first >= second for first, second in pairwise(flops))
    assert flops[-1] < 0.9 * never["dense_flops_per_text"]


@pytest.mark.parametrize("budget", [1000, 60])  # tokens: a list in one batch, in several
@pytest.mark.parametrize("method", [Cascade(), Stack((TrainingFree(target=0.8), Cascade()))])
def test_one_pass_tells_who_leaves_at_every_margin(
    method: Any, budget: int, encoded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = CandidateLists.batches
    monkeypatch.setattr(
        CandidateLists, "batches", lambda lists, lengths: batches(lists, lengths, budget)
    )
    reranker = _reranker(method)
    points = fewer.attachment(reranker).policy.operating_points()
    runs, spec = PointRuns(reranker, encoded, TOKENIZER, _scorer()), fewer.attachment(reranker).spec
    passes: list[int] = []
    told, left = [], []
    handle = reranker.base_model.register_forward_hook(lambda *_: passes.append(1))
    for point in points.path:
        points.set(point)
        before = len(passes)
        answers, traces, order = runs.run(points, "told")
        told.append(len(passes) - before)
        expected, real_traces, real_order = run_all(reranker, encoded, TOKENIZER, _scorer(), "real")
        torch.testing.assert_close(answers, expected, rtol=1e-4, atol=1e-4)
        assert order == real_order
        for trace, real in zip(traces, real_traces, strict=True):
            assert torch.equal(trace.exited, real.exited)
            surplus = spec.flops(trace).sum() / spec.flops(real).sum() - 1
            assert -1e-6 < surplus < 0.03
        left.append(sum(int(trace.exited.sum()) for trace in real_traces))
    handle.remove()
    assert told[0]
    assert not any(told[1:]) or isinstance(method, Stack)  # whose other part is turned too
    assert left[-1] > 20


def test_a_list_is_timed_as_a_batch(model: Any, encoded: Any) -> None:
    lists = _scorer().lists(model)
    assert default_sizes(60, lists) == [1, 8, 30]
    assert default_sizes(60, None) == [1, 8, 32]
    with fewer.record() as traces:
        rows = latency(model, encoded, TOKENIZER, batch_sizes=[30], runs=1, lists=lists)
    assert list(rows["method"]["latency_ms"]) == ["30"]
    counts = [int(trace.exited.sum()) for trace in traces]  # packed and the method, in turn
    assert sorted(counts)[:3] == [0, 0, 0]
    assert sorted(counts)[3] > 5
    with pytest.raises(ValueError, match=r"batch_sizes.*30"):
        latency(model, encoded, TOKENIZER, batch_sizes=[31], runs=1, lists=lists)


def test_lists_are_batched_in_their_order_by_tokens() -> None:
    lists = CandidateLists([[0, 2, 4], [1, 3]], top_k=1)
    assert lists.batches([3, 9, 4, 2, 2], token_budget=7) == [[0, 2], [4], [1], [3]]


def test_an_answer_is_another_where_other_documents_are_the_best() -> None:
    full, other = torch.zeros(60), torch.zeros(60)
    full[[0, 2, 4, 1, 3]] = torch.tensor([3.0, 2.0, 1.0, 5.0, 4.0])  # queries take turns
    other[[2, 0, 6, 1, 5]] = torch.tensor([3.0, 2.0, 1.0, 5.0, 4.0])
    # of the third best of the second query all are equal, so that the first of them counts
    for top_k, differs in ((1, [True, False]), (2, [False, True]), (3, [True, False])):
        assert _scorer(top_k).differs(other, full).tolist() == differs


def test_documents_that_left_rank_below_the_others_in_their_order() -> None:
    scores, is_read = torch.tensor([1.0, 5.0, 2.0, 4.0]), torch.tensor([True, False, True, False])
    assert lower_unread(scores, is_read).tolist() == [1.0, 0.0, 2.0, -1.0]
    assert lower_unread(scores, ~is_read).tolist() == [1.0, 5.0, 2.0, 4.0]
    assert lower_unread(scores, torch.ones(4, dtype=torch.bool)).tolist() == scores.tolist()


def test_how_many_are_wanted_is_asked_only_of_lists(model: Any) -> None:
    scorer = for_best(_scorer(), model, 3)
    lists = scorer.lists(model)
    assert lists is not None
    assert lists.top_k == 3
    for other, reader in ((TextScorer([]), model), (_scorer(), tiny(num_labels=1))):
        with pytest.raises(ValueError, match="top_k"):
            for_best(other, reader, 3)
