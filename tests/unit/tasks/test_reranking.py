"""Queries and documents: guessed columns, groups of a query, targets of the one logit."""

from __future__ import annotations

import pytest
from datasets import Dataset

from fewer.tasks.reranking import Reranking, infer_reranking, is_reranking
from fewer.tasks.sampling import sample_rows
from tests.tiny import word_tokenizer

QUERIES = ["a", "b", "a", "c"]


def rows(relevance, queries=QUERIES, **more):
    documents = [f"w{number}" for number in range(len(relevance))]
    columns = {"query": queries[: len(relevance)], "document": documents, "label": relevance}
    return Dataset.from_dict({**columns, **more})


@pytest.mark.parametrize("document", ["document", "passage", "text", "Doc"])
@pytest.mark.parametrize("label", ["relevance", "label", "score"])
def test_usual_columns_are_found(document, label):
    table = Dataset.from_dict({label: [0, 1], document: ["a", "b"], "Query": ["q", "q"]})
    assert is_reranking(table)
    task = infer_reranking(table)
    assert (task.query, task.document, task.label, task.query_id) == (
        "Query",
        document,
        label,
        None,
    )


def test_a_question_is_a_query_with_a_query_id_only():
    table = Dataset.from_dict({"question": ["q"], "passage": ["p"], "label": [1]})
    assert not is_reranking(table)
    table = table.add_column("query_id", ["1"])
    assert is_reranking(table)
    assert infer_reranking(table).query_id == "query_id"


@pytest.mark.parametrize(
    "columns", [{"label": ["yes", "no"]}, {"label": [None, None]}, {"other": [0, 1]}]
)
def test_labels_that_are_no_numbers_are_no_relevance(columns):
    table = Dataset.from_dict({"query": ["q", "q"], "document": ["a", "b"], **columns})
    assert not is_reranking(table)


def test_equal_texts_or_equal_ids_are_one_query():
    task = infer_reranking(rows([0, 1, 1, 0]))
    assert task.queries(rows([0, 1, 1, 0])) == [0, 1, 0, 2]
    table = rows([0, 1, 1, 0], query_id=[7, 7, 3, 3])
    assert infer_reranking(table).queries(table) == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("relevance", "problem_type"),
    [
        ([0, 1, 0, 1], "multi_label_classification"),
        (["0", "1", "0", "1"], "multi_label_classification"),
        ([0.0, 0.5, 1.0, 0.2], "multi_label_classification"),
        ([0, 3, 1, 2], "regression"),
    ],
)
def test_one_logit_learns_by_the_loss_that_fits_the_grades(relevance, problem_type):
    task = infer_reranking(rows(relevance))
    assert (task.num_labels, task.problem_type, task.id2label) == (
        1,
        problem_type,
        {0: "relevance"},
    )
    encoded = task.encode(rows(relevance), word_tokenizer(), max_length=8)
    assert encoded["labels"][:] == [[float(value)] for value in relevance]
    assert (
        "labels"
        not in task.encode(
            rows(relevance), word_tokenizer(), max_length=8, training=False
        ).column_names
    )


def test_a_model_of_binary_relevance_takes_no_grades_for_training():
    task, table = Reranking(), rows([0, 3, 1, 2])
    assert task.relevance(table) == [0.0, 3.0, 1.0, 2.0]
    with pytest.raises(ValueError, match=r"'label', row 1 .*from 0 to 1 .*got 3"):
        task.encode(table, word_tokenizer(), max_length=8)


@pytest.mark.parametrize(
    ("bad", "message"),
    [(float("nan"), "finite number"), (-1.0, "0 .not relevant. or more"), (None, "finite number")],
)
def test_wrong_relevance_is_refused_with_its_row(bad, message):
    with pytest.raises(ValueError, match=rf"'label', row 1 .*{message}"):
        Reranking().relevance(rows([1.0, bad, 0.0, 1.0]))


def test_a_missing_query_is_refused_with_its_row():
    with pytest.raises(ValueError, match=r"'query', row 1 .*must not be missing"):
        Reranking().queries(rows([0, 1], queries=["a", None]))


def test_a_missing_column_is_named():
    table = Dataset.from_dict({"query": ["a"], "body": ["b"], "label": [1]})
    with pytest.raises(ValueError, match=r"document must be the name of a column.*'body'"):
        infer_reranking(table)
    assert infer_reranking(table, document="body").document == "body"


def test_a_sample_has_whole_queries():
    table = rows([0, 1] * 20, queries=[str(number // 4) for number in range(40)])
    task = infer_reranking(table)
    drawn = sample_rows(task, table, 10, seed=3)
    assert len(drawn) == 12
    assert all(drawn["query"][:].count(query) == 4 for query in set(drawn["query"]))
    assert drawn["query"][:] == sample_rows(task, table, 10, seed=3)["query"][:]
    assert drawn["query"][:] != sample_rows(task, table, 10, seed=4)["query"][:]
