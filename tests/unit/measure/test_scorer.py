"""Long texts are scored by the merged logits of their windows, as `fewer.predict` merges them."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset

import fewer
from fewer.inference.candidate_lists import check_whole
from fewer.measure.evaluate import predict as run
from fewer.measure.evaluate import three_way
from fewer.measure.ranking_scorer import RankingScorer
from fewer.measure.scorers import MultiLabelScorer, SpanScorer, TagScorer, TextScorer
from fewer.tasks import MultiLabel, TextClassification
from fewer.tasks.reranking import Reranking
from tests.rounding import assert_same
from tests.tiny import tiny, word_tokenizer

LONG = " ".join(f"w{number % 50}" for number in range(40))
TEXTS = ["w1 w2", LONG, "", LONG[40:]]
OPTIONS: dict[str, Any] = {"max_length": 16, "training": False}


@pytest.mark.parametrize("rule", ["max", "mean"])
def test_answers_are_those_of_predict(rule: Any) -> None:
    table = Dataset.from_dict({"text": TEXTS, "label": [0, 1, 2, 0]})
    task = TextClassification(label_names=("a", "b", "c"))
    encoded = task.encode(table, word_tokenizer(), overlong=rule, **OPTIONS)
    assert encoded["text"][:] == [0, 1, 1, 1, 1, 2, 3, 3, 3]
    model = fewer.attach(tiny(), fewer.LTP())
    scorer = TextScorer([0, 1, 2, 0]).for_overlong(rule)
    outcome = run(model, encoded, word_tokenizer(), scorer)
    assert_same(
        outcome.answers,
        fewer.predict(model, word_tokenizer(), TEXTS, max_length=16, overlong=rule),
    )
    results = three_way(model, encoded, word_tokenizer(), scorer)
    assert results["packed"]["changed"] == 0.0
    assert results["padded"]["tokens_per_layer"][0] >= results["packed"]["tokens_per_layer"][0]
    assert results["packed"]["tokens_per_layer"][0] == sum(encoded["length"]) / 4


def test_labels_and_relevance_are_merged_too() -> None:
    table = Dataset.from_dict({"text": TEXTS, "labels": [["a"], [], ["a"], []]})
    model = fewer.attach(tiny(num_labels=1, problem_type="multi_label_classification"))
    encoded = MultiLabel(label_names=("a",)).encode(
        table, word_tokenizer(), overlong="max", **OPTIONS
    )
    scorer = MultiLabelScorer([[1.0], [0.0], [1.0], [0.0]], ("a",)).for_overlong("max")
    options: dict[str, Any] = {"max_length": 16, "overlong": "max"}
    logits = fewer.predict(model, word_tokenizer(), TEXTS, **options)
    assert_same(run(model, encoded, word_tokenizer(), scorer).answers, logits)

    queries = ["w7", "w7", "w8", "w8"]
    pairs = Dataset.from_dict({"query": queries, "document": TEXTS, "label": [0, 1, 1, 0]})
    encoded = Reranking().encode(pairs, word_tokenizer(), overlong="max", **OPTIONS)
    ranking = RankingScorer([0, 1, 1, 0], [0, 0, 1, 1]).for_overlong("max")
    assert sorted(set(ranking.texts(encoded))) == [0, 1]
    scores = fewer.predict(model, word_tokenizer(), queries, text_pairs=TEXTS, **options)
    assert_same(run(model, encoded, word_tokenizer(), ranking).answers, scores[:, 0])


def test_what_cannot_be_merged_is_refused_by_name() -> None:
    table = Dataset.from_dict({"text": TEXTS, "label": [0, 1, 2, 0]})
    for scorer in (TagScorer([], []), SpanScorer(table)):
        with pytest.raises(ValueError, match="overlong"):
            scorer.for_overlong("max")
    with pytest.raises(ValueError, match="overlong"):
        TextScorer([]).for_overlong("first")
    assert TagScorer([], []).for_overlong("window") == TagScorer([], [])
    with pytest.raises(ValueError, match="Cascade"):
        check_whole("max")
    task = TextClassification(label_names=("a", "b", "c"))
    with pytest.raises(ValueError, match="overlong"):
        task.encode(table, word_tokenizer(), max_length=16, overlong="max")
