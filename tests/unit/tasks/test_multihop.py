"""Paragraphs become a context, supporting facts its characters, and the answer stands in them."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset

from fewer.tasks.columns import DataWarning
from fewer.tasks.rows import read_rows
from fewer.tasks.squad import squad_rows

HOTPOT = {
    "id": "h1",
    "question": "Where was the author of Sea born?",
    "answer": "Rome",
    "titles": ["Rome", "Ada", "Sea"],
    "sentences": [
        ["Rome is old.", " Very old."],
        ["Ada wrote.", " She is from Rome."],
        ["Sea is by Ada."],
    ],
    "supporting_facts": [["Ada", 1], ["Sea", 0], ["Sea", 9], ["Lost", 0]],
}
HOTPOT_CONTEXT = (
    "Rome\nRome is old. Very old.\n\nAda\nAda wrote. She is from Rome.\n\nSea\nSea is by Ada."
)
MUSIQUE = {
    "id": "m1",
    "question": "Who?",
    "answer": "10",
    "answer_aliases": ["ten", "the 10"],
    "titles": ["A", "B"],
    "paragraphs": ["the 10", "since 2010, 10"],
    "is_supporting": [False, True],
}


def pieces(row):
    return [row["context"][start:end] for start, end in row["evidence"]]


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_hotpot_answers_stand_in_supporting_sentences(tmp_path):
    (row,) = squad_rows(read_rows(write(tmp_path / "hotpot.jsonl", HOTPOT)))

    assert row["context"] == HOTPOT_CONTEXT
    assert pieces(row) == ["She is from Rome.", "Sea is by Ada."]
    start = HOTPOT_CONTEXT.index("from Rome") + len("from ")
    assert row["answers"] == {"text": ["Rome"], "answer_start": [start]}
    assert (row["id"], row["question"]) == ("h1", HOTPOT["question"])


def test_an_answer_outside_the_supporting_facts_is_the_first_in_the_context(tmp_path):
    elsewhere = HOTPOT | {"supporting_facts": []}

    (row,) = squad_rows(read_rows(write(tmp_path / "hotpot.jsonl", elsewhere)))
    assert row["evidence"] == []
    assert row["answers"]["answer_start"] == [0]


def test_musique_answers_are_found_in_supporting_paragraphs_as_full_words():
    (row,) = squad_rows(Dataset.from_list([MUSIQUE]))

    assert row["context"] == "A\nthe 10\n\nB\nsince 2010, 10"
    assert pieces(row) == ["B\nsince 2010, 10"]
    assert row["answers"] == {"text": ["10", "ten", "the 10"], "answer_start": [24, -1, 2]}


def test_answers_that_are_no_spans_are_dropped_and_counted(tmp_path):
    rows = [HOTPOT, *(HOTPOT | {"id": f"h{a}", "answer": a} for a in ("yes", "No", "Oslo"))]

    with pytest.warns(DataWarning) as caught:
        table = squad_rows(read_rows(write(tmp_path / "hotpot.jsonl", *rows)))
    assert table["id"][:] == ["h1"]
    assert [str(warning.message) for warning in caught] == [
        "3 of 4 questions were dropped, as their answers are not spans of a context: 2 are yes or "
        "no, 1 are in no paragraph"
    ]


def test_an_alias_may_be_the_answer_in_the_context():
    (row,) = squad_rows(Dataset.from_list([MUSIQUE | {"answer": "Ten"}]))

    assert row["answers"] == {"text": ["Ten", "ten", "the 10"], "answer_start": [-1, -1, 2]}


def test_a_multi_hop_question_without_its_answer_is_refused_with_its_id():
    rows = Dataset.from_list([MUSIQUE, MUSIQUE | {"id": "m2", "answer": None}])
    with pytest.raises(ValueError, match="id 'm2'"):
        squad_rows(rows)


def test_a_multi_hop_question_that_is_no_string_is_refused():
    rows = Dataset.from_list([MUSIQUE, MUSIQUE | {"id": "m2", "question": None}])

    with pytest.raises(TypeError, match="column 'question', row 1"):
        squad_rows(rows)
