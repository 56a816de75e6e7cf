"""Embedding models are scored as the evaluators of sentence-transformers score them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModel, AutoTokenizer

import fewer
from fewer.measure.bootstrap import paired_difference
from fewer.measure.embedding_scorers import RetrievalScorer, SimilarityScorer
from fewer.measure.evaluate import three_way
from fewer.measure.scorers import make_scorer
from fewer.methods.pruning import LinearShortcut
from fewer.tasks import DataWarning
from fewer.tasks.embedding import EmbeddingConfig, infer_embedding
from tests.unit.conftest import WORDS

st = pytest.importorskip("sentence_transformers")
evaluation = pytest.importorskip("sentence_transformers.evaluation")


TEXTS = [
    " ".join(WORDS[(row * 5 + place * (row % 4 + 1)) % len(WORDS)] for place in range(2 + row % 7))
    for row in range(40)
]
RETRIEVAL = Dataset.from_dict(
    {
        "query": [TEXTS[row % 8] for row in range(32)],
        "document": [TEXTS[8 + row] for row in range(32)],
        "relevance": [[0, 1, 0, 2][row // 8] for row in range(32)],
    }
)
SIMILARITY = Dataset.from_dict(
    {"text1": TEXTS[:20], "text2": TEXTS[20:], "score": [row % 7 / 2 for row in range(20)]}
)


@pytest.fixture
def model(model_folder):
    return fewer.attach(AutoModel.from_pretrained(model_folder).eval())


@pytest.fixture
def tokenizer(model_folder):
    return AutoTokenizer.from_pretrained(model_folder)


def _measure(model, tokenizer, rows, config=None, **options):
    task = infer_embedding(rows, config)
    encoded = task.encode(rows, tokenizer, max_length=24, **options)
    scorer = make_scorer(task, rows)
    if options:
        scorer = scorer.for_overlong(options["overlong"])
    return three_way(model, encoded, tokenizer, scorer), scorer, encoded


def test_retrieval_is_scored_as_sentence_transformers_does(model, tokenizer, model_folder):
    _, scorer, _ = _measure(model, tokenizer, RETRIEVAL)
    assert isinstance(scorer, RetrievalScorer)
    documents = list(dict.fromkeys(RETRIEVAL["document"]))
    queries = dict(enumerate(dict.fromkeys(RETRIEVAL["query"])))
    relevant = {number: set() for number in queries}
    for row, query in enumerate(scorer.queries):
        if RETRIEVAL["relevance"][row] == 1:  # grades are no part of their evaluator
            relevant[query].add(str(scorer.documents[row]))
    binary = RETRIEVAL.remove_columns("relevance").add_column(
        "relevance", [float(value == 1) for value in RETRIEVAL["relevance"]]
    )
    systems, *_ = _measure(model, tokenizer, binary)
    evaluator = evaluation.InformationRetrievalEvaluator(
        {str(number): query for number, query in queries.items()},
        {str(number): document for number, document in enumerate(documents)},
        {str(number): found for number, found in relevant.items()},
        precision_recall_at_k=[100],
    )
    expected = evaluator(st.SentenceTransformer(str(model_folder), device="cpu"))
    found = systems["packed"]["metrics"]
    assert found["ndcg@10"] == pytest.approx(expected["cosine_ndcg@10"], abs=1e-6)
    assert found["mrr@10"] == pytest.approx(expected["cosine_mrr@10"], abs=1e-6)
    assert found["recall@100"] == pytest.approx(expected["cosine_recall@100"], abs=1e-6)


def test_similarity_is_scored_as_sentence_transformers_does(model, tokenizer, model_folder):
    systems, scorer, _ = _measure(model, tokenizer, SIMILARITY)
    assert isinstance(scorer, SimilarityScorer)
    evaluator = evaluation.EmbeddingSimilarityEvaluator(
        SIMILARITY["text1"][:], SIMILARITY["text2"][:], SIMILARITY["score"][:]
    )
    expected = evaluator(st.SentenceTransformer(str(model_folder), device="cpu"))
    found = systems["packed"]["metrics"]
    assert list(found) == ["spearman", "pearson"]
    assert found["spearman"] == pytest.approx(expected["spearman_cosine"], abs=1e-6)
    assert found["pearson"] == pytest.approx(expected["pearson_cosine"], abs=1e-5)


@pytest.mark.filterwarnings("ignore:the linear shortcut keeps")  # of few tokens a whole number
def test_pruned_and_whole_models_are_compared_with_an_interval(model, tokenizer):
    fewer.prune(model, tokenizer, 2 * TEXTS, method=LinearShortcut(target=0.8, shortest=4))
    systems, scorer, encoded = _measure(model, tokenizer, RETRIEVAL)
    method, packed = systems["method"], systems["packed"]
    assert method["flops_per_text"] < 0.95 * packed["flops_per_text"]
    assert packed["changed"] == 0.0
    difference = method["metrics"]["ndcg@10"] - packed["metrics"]["ndcg@10"]
    assert method["difference"]["mean"] == pytest.approx(difference)
    assert method["difference"]["low"] <= difference <= method["difference"]["high"]
    assert sorted(set(scorer.texts(encoded))) == list(range(8))
    similar, *_ = _measure(model, tokenizer, SIMILARITY)
    assert "difference" not in similar["method"]  # a correlation is no mean over texts


def test_the_pooling_and_the_similarity_are_those_of_the_model(model, tokenizer):
    config = EmbeddingConfig(pooling="cls", similarity="dot")
    task = infer_embedding(SIMILARITY, config)
    encoded = task.encode(SIMILARITY, tokenizer, max_length=24)
    order = [list(range(len(encoded)))]
    answers = make_scorer(task, SIMILARITY).read(model, encoded, tokenizer, order, "")
    vectors = fewer.embed(model, tokenizer, TEXTS, pooling="cls", max_length=24)
    torch.testing.assert_close(answers, (vectors[:20] * vectors[20:]).sum(1))


def test_windows_of_a_text_are_merged(model, tokenizer):
    rows = Dataset.from_dict({"query": TEXTS[:4], "document": [20 * text for text in TEXTS[4:8]]})
    rows = rows.map(lambda row: {"document": (row["document"] + " ") * 3})
    _, scorer, encoded = _measure(model, tokenizer, rows, overlong="mean")
    assert len(encoded) > 8
    order = [list(range(len(encoded)))]
    vectors = scorer.vectors(model, encoded, tokenizer, order, "")
    expected = fewer.embed(
        model, tokenizer, rows["document"], max_length=24, overlong="mean", normalize=True
    )
    torch.testing.assert_close(vectors[4:], expected)


def test_a_relevant_document_that_is_not_found_counts():
    """Of 150 documents the relevant one is last: it is in no list of 100, but the best has it."""
    scorer = RetrievalScorer(queries=[0] * 150, documents=range(150), relevance=[0.0] * 149 + [1.0])
    found = {document: 1 - document / 150 for document in [*range(100), 149]}
    metrics = scorer.score([found])
    assert metrics == {"ndcg@10": 0.0, "mrr@10": 0.0, "recall@100": 0.0}
    first = {149: 2.0, **dict.fromkeys(range(99), 0.1)}
    assert scorer.score([first]) == {"ndcg@10": 1.0, "mrr@10": 1.0, "recall@100": 1.0}
    assert scorer.differs([found], [first]).tolist() == [True]
    assert scorer.remark([found, found]) == "every query finds the same document first"


def test_queries_without_a_relevant_document_are_left_out_with_a_warning():
    rows = Dataset.from_dict({"query": ["a", "b"], "document": ["c", "d"], "relevance": [0, 1]})
    with pytest.warns(DataWarning, match="1 of 2 queries"):
        scorer = make_scorer(infer_embedding(rows), rows)
    answers = [{0: 0.2, 1: 0.1}, {1: 0.4, 0: 0.3}]
    assert scorer.score(answers) == {"ndcg@10": 1.0, "mrr@10": 1.0, "recall@100": 1.0}
    each = scorer.each(answers)
    assert each.isnan().tolist() == [True, False]
    worse = [answers[0], {0: 0.5, 1: 0.3}]
    interval = paired_difference(scorer, [worse], [answers], range(2))
    assert interval.mean == pytest.approx(float(scorer.each(worse)[1] - each[1]))
    assert np.isfinite(scorer.score(answers, [0])["ndcg@10"])
