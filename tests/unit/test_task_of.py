"""The task of rows: by named columns, the model's head, and the usual columns."""

from __future__ import annotations

import pytest
from datasets import Dataset
from transformers import BertConfig

from fewer.recipe import labels_of, task_of
from fewer.tasks import MultiLabel, Reranking, TextClassification

LISTS = Dataset.from_dict({"text": ["w", "x"], "labels": [["a"], ["b", "a"]]})
JOINED = Dataset.from_dict({"text": ["w", "x", "y"], "labels": ["a", "b|a", ""]})
ALONE = Dataset.from_dict({"text": ["w", "x"], "labels": ["a", "b"]})
RANKING = Dataset.from_dict({"query": ["q", "q"], "document": ["d", "e"], "label": [0, 1]})
GRADED = Dataset.from_dict({"query": ["q", "q"], "document": ["d", "e"], "label": [0, 3]})
SCORES = Dataset.from_dict(
    {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "score": ["5", "3.8"]}
)
MULTI = "multi_label_classification"


@pytest.fixture
def model(tmp_path):
    def save(names=None, problem_type=None):
        head = {} if names is None else {"id2label": dict(enumerate(names))}
        config = BertConfig(problem_type=problem_type, **head)
        config.architectures = ["BertModel" if names is None else "BertForSequenceClassification"]
        config.save_pretrained(tmp_path)
        return str(tmp_path)

    return save


@pytest.mark.parametrize(
    ("rows", "columns", "kind"),
    [
        (LISTS, {}, MultiLabel),
        (JOINED, {}, MultiLabel),
        (ALONE, {}, TextClassification),
        (ALONE, {"labels": "labels"}, MultiLabel),
        (JOINED.select([0, 1]), {"label": "labels"}, TextClassification),
        (RANKING, {}, Reranking),
        (RANKING, {"text": "query", "text_pair": "document"}, TextClassification),
        (RANKING, {"label_names": ("no", "yes")}, TextClassification),
        (SCORES, {}, TextClassification),
    ],
)
def test_rows_have_the_task_of_their_columns(model, rows, columns, kind):
    assert type(task_of(rows, model(), columns)) is kind


def test_scores_of_pairs_are_regression(model):
    task = task_of(SCORES, model(), {})
    assert (task.text, task.text_pair, task.regression) == ("sentence1", "sentence2", True)


@pytest.mark.parametrize("columns", [{}, {"labels": "labels"}, {"label": "labels"}])
def test_a_multi_label_head_gives_names_to_rows_of_one_label_each(model, columns):
    task = task_of(ALONE, model(["b", "a", "c"], MULTI), columns)
    assert task.labels(ALONE) == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]


def test_a_head_of_one_label_refuses_lists(model):
    with pytest.raises(ValueError, match="a row must have one label"):
        task_of(LISTS, model(["a", "b"]), {}).labels(LISTS)
    with pytest.raises(ValueError, match=r"labels must belong to a multi-label model"):
        task_of(LISTS, model(["a", "b"]), {"labels": "labels"})


@pytest.mark.parametrize(
    ("problem_type", "rows", "graded"),
    [
        (MULTI, RANKING, False),
        (MULTI, GRADED, False),
        ("regression", RANKING, True),
        (None, RANKING, False),
        (None, GRADED, True),
    ],
)
def test_a_head_of_one_logit_keeps_its_loss(model, problem_type, rows, graded):
    assert task_of(rows, model(["relevance"], problem_type), {}).graded is graded


def test_a_classifier_of_pairs_stays_one(model):
    task = task_of(RANKING, model(["no", "yes"]), {})
    assert task.labels(RANKING) == [0, 1]


def test_one_logit_of_binary_cross_entropy_is_no_regression(model):
    assert labels_of(model(["spam"], MULTI)) == {"label_names": ["spam"]}
    assert labels_of(model(["spam"])) == {"regression": True}
