"""Rows that a benchmark makes of data for other tasks."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from benchmarks import task_data

CONTEXT = "Ada came. She wrote 3.5 programs! Bob read them? " + " ".join(
    f"Sentence {n} is here." for n in range(9)
)
ARTICLE: dict[str, Any] = {
    "paragraphs": [
        {
            "context": CONTEXT,
            "qas": [
                {
                    "id": "q",
                    "question": "How many?",
                    "answers": [{"answer_start": CONTEXT.index("3.5")}],
                }
            ],
        }
    ]
}


def test_sentences_are_the_text_without_loss() -> None:
    sentences = task_data._split_sentences(CONTEXT)
    assert " ".join(text for _, text in sentences) == CONTEXT
    assert [text for _, text in sentences[:3]] == [
        "Ada came.",
        "She wrote 3.5 programs!",
        "Bob read them?",
    ]
    assert all(CONTEXT[start:].startswith(text) for start, text in sentences)


def test_the_sentence_with_the_answer_is_the_only_relevant_of_ten() -> None:
    ((*rows,),) = task_data._queries(ARTICLE, random.Random(0))
    assert Counter(row["relevance"] for row in rows) == {0: 9, 1: 1}
    (relevant,) = (row for row in rows if row["relevance"])
    assert (relevant["query_id"], relevant["document"]) == ("q", "She wrote 3.5 programs!")
    assert len({row["document"] for row in rows}) == 10
