"""Cascade reranking: who leaves, who never does, and that all scores stay those of the model."""

from itertools import pairwise

import pytest
import torch

import fewer
from fewer.core.candidates import Candidates, among_candidates
from fewer.methods.combined import Stack
from fewer.methods.exits import Cascade
from fewer.methods.exits.ridge import fit_ridge
from fewer.methods.pruning import TrainingFree
from tests.contract.table import read
from tests.rounding import assert_same
from tests.tiny import ragged, tiny, word_tokenizer

QUERIES = [f"w{row % 7} w{(3 * row) % 11}" for row in range(60)]
DOCUMENTS = [
    " ".join(f"w{(row * 7 + place * (row % 5 + 1)) % 50}" for place in range(3 + row % 9))
    for row in range(60)
]


def reranker(method=None, **sizes):
    torch.manual_seed(0)
    model = tiny(**{"layers": 4, "width": 16, "num_labels": 1, "initializer_range": 0.3} | sizes)
    with torch.no_grad():
        model.classifier.weight.mul_(20)  # scores that differ
    if method is None:
        return model
    return fewer.prune(model, word_tokenizer(), QUERIES, text_pairs=DOCUMENTS, method=method)


def rank(model, top_k=5, **options):
    return fewer.rank(model, word_tokenizer(), "w3 w9", DOCUMENTS, top_k=top_k, **options)


@pytest.fixture(scope="module")
def dense():
    return fewer.rank(reranker(), word_tokenizer(), "w3 w9", DOCUMENTS)


def test_with_a_wide_margin_the_best_are_those_of_the_dense_model(dense):
    ranked = rank(reranker(Cascade(margin=4.0)))
    assert [entry.document for entry in ranked] == [entry.document for entry in dense[:5]]
    for entry, expected in zip(ranked, dense, strict=False):
        assert entry.score == pytest.approx(expected.score, abs=1e-4)


@pytest.mark.parametrize("budget", [None, 100])
def test_without_a_margin_fewer_are_read_and_each_keeps_its_score(dense, budget):
    model, scores = reranker(Cascade(margin=0.0)), dict(dense)
    with fewer.record() as traces:
        ranked = rank(model, token_budget=budget)
    assert sum(trace.grid[0] for trace in traces) == 60
    assert sum(int(trace.exited.sum()) for trace in traces) > 20
    assert len(ranked) == 5
    for document, score in ranked:
        assert score == pytest.approx(scores[document], abs=1e-4)


def _layers_read(model, top_k):
    tokenizer = word_tokenizer()
    batch = tokenizer(["w3 w9"] * 60, DOCUMENTS, padding=True, return_tensors="pt")
    with among_candidates(Candidates(top_k)):
        logits, trace = read(model, batch)
    return logits, trace


def test_a_smaller_margin_lets_more_documents_leave():
    model, counts = reranker(Cascade()), []
    for margin in fewer.attachment(model).policy.operating_points().path:
        fewer.set_threshold(model, threshold=margin)
        counts.append(int(_layers_read(model, 5)[1].exited.sum()))
    assert all(first <= second for first, second in pairwise(counts))
    assert counts[-1] > 20
    assert 60 - counts[-1] >= 5


def test_documents_that_leave_answer_with_the_estimate():
    logits, trace = _layers_read(reranker(Cascade(margin=0.0)), 5)
    left = dict(
        (int(row), float(score))
        for output in trace.exit_outputs
        for row, score, has_left in zip(output.rows, output.logits, output.exited, strict=True)
        if has_left
    )
    assert {row: float(logits[row]) for row in left} == pytest.approx(left)
    assert set(left) == set(trace.exited.nonzero().flatten().tolist())


def test_as_many_documents_as_are_wanted_are_all_read():
    assert not _layers_read(reranker(Cascade(margin=0.0)), 60)[1].exited.any()
    assert not _layers_read(reranker(Cascade(margin=0.0)), 61)[1].exited.any()


def test_outside_a_list_the_model_is_dense():
    model = reranker(Cascade(margin=0.0))
    batch = ragged(model)
    logits, trace = read(model, batch)
    assert_same(logits, read(fewer.attach(reranker()), batch)[0])
    assert not trace.exited.any()
    assert fewer.rank(model, word_tokenizer(), "w3", DOCUMENTS, progress=False) == fewer.rank(
        fewer.attach(reranker()), word_tokenizer(), "w3", DOCUMENTS, progress=False
    )


def test_it_stacks_with_token_pruning():
    pruning = TrainingFree(target=0.8, only_first_last=False)
    model = reranker(Stack((pruning, Cascade(margin=0.5))))
    alone = dict(fewer.rank(reranker(pruning), word_tokenizer(), "w3 w9", DOCUMENTS))
    for document, score in rank(model):
        assert score == pytest.approx(alone[document], abs=1e-4)


def test_heads_recover_a_linear_score_and_the_spread_of_its_noise():
    """The score is 2 a - b + 3, with noise of standard deviation 0.5 in the second case."""
    torch.manual_seed(0)
    features = torch.randn(4000, 3)
    clean = 2 * features[:, 0] - features[:, 1] + 3
    ridge = fit_ridge(features, clean[:, None])
    assert ridge.weight[0].tolist() == pytest.approx([2, -1, 0], abs=1e-3)
    assert float(ridge.bias) == pytest.approx(3, abs=1e-3)
    assert float(ridge.errors.abs().max()) < 1e-2
    noisy = fit_ridge(features, clean[:, None] + 0.5 * torch.randn(4000, 1))
    assert float(noisy.errors.std()) == pytest.approx(0.5, abs=0.03)


def test_the_best_of_earlier_passes_count():
    candidates = Candidates(2)
    assert candidates.worst_wanted(torch.tensor([1.0])) is None
    candidates.add(torch.tensor([3.0, 1.0, 2.0]))
    assert candidates.best.tolist() == [3.0, 2.0]
    assert candidates.worst_wanted(torch.tensor([0.5])).item() == 2.0
    assert candidates.worst_wanted(torch.tensor([2.5, 9.0])).item() == 3.0


def test_it_is_saved_with_the_model(tmp_path):
    model = reranker(Cascade(margin=0.5))
    fewer.save(model, tmp_path)
    loaded, ranked = rank(fewer.load(tmp_path)), rank(model)
    assert [entry.document for entry in loaded] == [entry.document for entry in ranked]


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match="one logit"):
        fewer.attach(tiny(num_labels=2), Cascade())
    with pytest.raises(ValueError, match="two layers"):
        fewer.attach(tiny(layers=1, num_labels=1), Cascade())
    with pytest.raises(ValueError, match="16 pairs"):
        fewer.prune(
            reranker(), word_tokenizer(), QUERIES[:9], text_pairs=DOCUMENTS[:9], method=Cascade()
        )
    with pytest.raises(ValueError, match="margin"):
        Cascade(margin=-1.0)
