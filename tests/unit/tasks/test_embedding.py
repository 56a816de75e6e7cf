"""Rows for embedding models: guessed columns, distinct texts, prompts."""

from __future__ import annotations

import pytest
from datasets import Dataset

from fewer.tasks.embedding import (
    EmbeddingConfig,
    Retrieval,
    Similarity,
    check_pooling,
    infer_embedding,
)
from fewer.tasks.sampling import sample_rows
from fewer.tasks.text_windows import COLUMN
from tests.tiny import word_tokenizer

PAIRS = Dataset.from_dict(
    {"sentence1": ["w5 w6", "w7"], "sentence2": ["w6", "w8 w9"], "score": [4, 1]}
)
FOUND = Dataset.from_dict(
    {
        "query": ["w5", "w6", "w5", "w7"],
        "document": ["w8", "w9", "w9", "w8"],
        "relevance": [2, 1, 0, 1],
    }
)


def encode(task, rows, **options):
    encoded = task.encode(rows, word_tokenizer(), max_length=16, **options)
    return encoded["input_ids"][:], encoded[COLUMN][:]


def ids_of(*texts):
    return [word_tokenizer()(text)["input_ids"] for text in texts]


def test_two_texts_with_a_number_are_similarity_also_where_numbers_are_whole():
    task = infer_embedding(PAIRS)
    assert isinstance(task, Similarity)
    assert task.labels(PAIRS) == [4.0, 1.0]
    assert encode(task, PAIRS) == (ids_of("w5 w6", "w7", "w6", "w8 w9"), [0, 1, 2, 3])


def test_queries_and_documents_are_read_once_each():
    task = infer_embedding(FOUND)
    assert isinstance(task, Retrieval)
    assert task.relevance(FOUND) == [2.0, 1.0, 0.0, 1.0]
    assert task.numbers(FOUND) == ([0, 1, 0, 2], [0, 1, 1, 0])
    assert encode(task, FOUND) == (ids_of("w5", "w6", "w7", "w8", "w9"), [0, 1, 2, 3, 4])


@pytest.mark.parametrize(("query", "document"), [("anchor", "positive"), ("Question", "answer")])
def test_without_relevance_the_document_of_a_row_is_relevant(query, document):
    rows = Dataset.from_dict({query: ["w5", "w6"], document: ["w8", "w9"]})
    task = infer_embedding(rows)
    assert isinstance(task, Retrieval)
    assert task.relevance(rows) == [1.0, 1.0]


def test_queries_of_one_id_belong_together():
    rows = FOUND.add_column("qid", [3, 1, 3, 2])
    assert infer_embedding(rows).numbers(rows)[0] == [0, 1, 0, 2]


def test_columns_may_be_named():
    rows = Dataset.from_dict({"a": ["w5"], "b": ["w6"], "c": [0.5], "query": ["w5"], "doc": ["w6"]})
    assert isinstance(infer_embedding(rows), Retrieval)
    similar = infer_embedding(rows, text="a", text_pair="b", label="c")
    assert isinstance(similar, Similarity)
    assert similar.labels(rows) == [0.5]
    found = infer_embedding(rows, query="a", document="b", label="c")
    assert isinstance(found, Retrieval)
    assert found.relevance(rows) == [0.5]


def test_prompts_stand_before_the_texts_of_their_kind():
    config = EmbeddingConfig(prompts={"query": "w1 ", "document": "w2 ", "default": "w3 "})
    texts = ids_of("w1 w5", "w1 w6", "w1 w7", "w2 w8", "w2 w9")
    assert encode(infer_embedding(FOUND, config), FOUND)[0] == texts
    assert encode(infer_embedding(PAIRS, config), PAIRS)[0][1] == ids_of("w3 w7")[0]


def test_long_texts_are_read_in_windows_of_their_number():
    rows = Dataset.from_dict({"query": ["w5"], "document": [" ".join(["w6"] * 30)]})
    _, owners = encode(infer_embedding(rows), rows, overlong="mean")
    assert owners == [0, 1, 1, 1]


def test_a_sample_has_whole_queries():
    drawn = sample_rows(infer_embedding(FOUND), FOUND, 2, seed=0)
    for query in drawn["query"]:
        assert drawn["query"][:].count(query) == FOUND["query"][:].count(query)


@pytest.mark.parametrize(
    ("columns", "named", "message"),
    [
        ({"text": ["w5"], "label": [1]}, {}, "two texts"),
        ({"sentence1": ["a"], "sentence2": ["b"], "label": ["same"]}, {}, "finite number"),
        ({"query": ["a"], "document": ["b"]}, {"document": "docs"}, "docs"),
        ({"sentence1": ["a"], "sentence2": ["b"], "score": [1]}, {"tags": "score"}, "tags"),
        ({"query": ["a"], "document": ["b"]}, {"tokens": "query"}, "tokens"),
    ],
)
def test_other_rows_are_refused(columns, named, message):
    rows = Dataset.from_dict(columns)
    with pytest.raises(ValueError, match=message):
        infer_embedding(rows, **named).labels(rows)


def test_a_query_has_one_text():
    rows = Dataset.from_dict({"query": ["w5", "w6"], "document": ["w7", "w8"], "query_id": [1, 1]})
    with pytest.raises(ValueError, match="one text for each query"):
        encode(infer_embedding(rows), rows)


def test_an_unknown_pooling_is_refused():
    assert check_pooling("cls") == "cls"
    with pytest.raises(ValueError, match="pooling"):
        check_pooling("average")
