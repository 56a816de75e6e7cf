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


def test_a_paragraph_is_widened_by_its_neighbours_and_its_answers_move_along() -> None:
    paragraphs = [{"context": f"Part {number} has its word{number}."} for number in range(6)]
    question = {"id": "q", "question": "Which?", "answers": [{"text": "word4", "answer_start": 15}]}
    page = task_data._join(paragraphs, 4, question, 12)
    assert page["context"] == "Part 3 has its word3.\nPart 4 has its word4.\nPart 5 has its word5."
    article = task_data._join(paragraphs, 4, question, None)
    assert article["context"].startswith("Part 0")
    assert article["context"].endswith("word5.")
    for row in (page, article):
        (start,) = row["answers"]["answer_start"]
        assert row["context"][start:].startswith("word4")


def test_evidence_is_the_sentence_in_which_the_answer_starts() -> None:
    question = {"answers": [{"text": "3.5 programs", "answer_start": CONTEXT.index("3.5")}]}
    first, end = task_data._sentence_of(CONTEXT, question)
    assert CONTEXT[first:end] == "She wrote 3.5 programs!"


def test_a_question_takes_the_place_of_its_answer_in_another() -> None:
    texts = ("Ada taught Grace. It rained.", "Nothing here.", "Snow fell. Grace wrote COBOL.")
    asked = (("a", "Whom did Ada teach?", "Grace"), (), ("b", "What did Grace write?", "COBOL"))
    paragraphs = []
    for text, question in zip(texts, asked, strict=True):
        qas = []
        if question:
            name, words, answer = question
            start = {"text": answer, "answer_start": text.index(answer)}
            qas.append({"id": name, "question": words, "answers": [start]})
        paragraphs.append({"context": text, "qas": qas})
    article = {"title": "Computing", "paragraphs": paragraphs}
    (row,) = task_data._compose(article)
    assert row["question"] == "What did (Whom did Ada teach) write?"
    assert row["context"] == f"{texts[0]}\n{texts[2]}"
    (start,) = row["answers"]["answer_start"]
    assert row["context"][start:].startswith("COBOL")
    found = [row["context"][first:end] for first, end in row["evidence"]]
    assert found == ["Ada taught Grace.", "Grace wrote COBOL."]
    assert not list(task_data._compose({**article, "title": "Grace Hopper and Grace"}))
