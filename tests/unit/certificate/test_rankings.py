"""Promises about the best documents of queries."""

import pytest

import fewer
from fewer.certificate.bench import encode_bench, points_of
from fewer.certificate.calibrate import calibrate
from fewer.methods.exits import Cascade
from fewer.methods.pruning import TrainingFree
from tests.unit.certificate.models import TEXTS, classifier


@pytest.mark.parametrize("problem", [None, "multi_label_classification"])  # as `fit` trains them
def test_the_first_documents_of_queries_are_certified(model_folder, problem):
    reranker, tokenizer = classifier(model_folder, num_labels=1, problem_type=problem)
    documents = [[TEXTS[(3 * query + place) % 80] for place in range(5)] for query in range(80)]
    certificate = calibrate(
        reranker, tokenizer, TEXTS, text_pairs=documents, max_disagreement=0.4, confidence=0.9
    )
    assert certificate.texts == 56  # queries
    assert certificate.top_k == 1
    assert "first documents of all queries" in certificate.promise
    assert fewer.attachment(reranker).method in (
        Cascade(),
        TrainingFree(rule="received"),
        TrainingFree(rule="cumulative"),
    )
    with pytest.raises(ValueError, match="latency_ms"):
        calibrate(reranker, tokenizer, TEXTS, text_pairs=documents, latency_ms=1.0)
    model, _ = classifier(model_folder)
    with pytest.raises(ValueError, match="text_pairs must be one text each"):
        calibrate(model, tokenizer, TEXTS, text_pairs=documents)
    with pytest.raises(ValueError, match="as many"):
        calibrate(reranker, tokenizer, TEXTS, text_pairs=documents[:3])
    for top_k, pairs in ((0, documents), (2, None)):
        with pytest.raises(ValueError, match="top_k"):
            calibrate(reranker, tokenizer, TEXTS, text_pairs=pairs, top_k=top_k)


def test_more_of_the_best_documents_cost_more_of_the_flops(model_folder):
    documents = [[TEXTS[(3 * query + place) % 80] for place in range(12)] for query in range(40)]
    queries, shares = TEXTS[:40], []
    for top_k in (1, 6, 12):
        reranker, tokenizer = classifier(model_folder, num_labels=1)
        fewer.prune(reranker, tokenizer, TEXTS, text_pairs=TEXTS[::-1], method=Cascade())
        certificate = calibrate(
            reranker, tokenizer, queries, text_pairs=documents, max_disagreement=0.5, top_k=top_k
        )
        assert certificate.top_k == top_k
        assert f"best {top_k} documents" in certificate.promise or top_k == 1
        fewer.set_threshold(reranker, threshold=0.0)
        bench = encode_bench(reranker, tokenizer, queries, documents, None, top_k=top_k)
        shares.append(bench.time_at(points_of(reranker), 0.0).share)
    assert shares[0] < shares[1] < shares[2] == pytest.approx(1.0)
