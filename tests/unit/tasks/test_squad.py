"""Every layout becomes one; answers stand where they say, or are mended or marked, and counted."""

from __future__ import annotations

import gzip
import json

import pytest
from datasets import Dataset

from fewer.tasks.columns import DataWarning
from fewer.tasks.rows import read_rows
from fewer.tasks.squad import check_answers, squad_rows

CONTEXT = "Ada met Bob. Bob met Cy."
COLUMNS = ["id", "title", "question", "context", "answers", "evidence"]


def spans(**starts):
    return {"text": list(starts), "answer_start": list(starts.values())}


def build_rows(answers, *, ids=None, contexts=None, **columns):
    count = len(answers)
    return Dataset.from_dict(
        {
            "id": ids or [f"q{row}" for row in range(count)],
            "question": ["Who?"] * count,
            "context": contexts or [CONTEXT] * count,
            "answers": answers,
            **columns,
        }
    )


def test_the_layout_of_the_hub_stays_as_it_is():
    table = build_rows([spans(Ada=0, Bob=13), spans()], title=["People", "People"])

    rows = squad_rows(table)
    assert rows.column_names == COLUMNS
    assert rows["answers"][:] == table["answers"][:]
    assert rows["title"][:] == ["People", "People"]
    assert rows["evidence"][:] == [[], []]
    assert squad_rows(rows)[:] == rows[:]


def test_missing_columns_are_filled_in():
    rows = squad_rows(Dataset.from_dict({"question": ["Who?", ""], "context": ["Ada.", ""]}))

    assert rows["id"][:] == ["0", "1"]
    assert rows["title"][:] == ["", ""]
    assert rows["answers"][:] == [spans(), spans()]
    assert rows.features == squad_rows(build_rows([spans(Ada=0)])).features


def test_a_flat_list_of_answers_is_read():
    flat = [[{"text": "Ada", "answer_start": 0}, {"text": "Cy", "answer_start": 21}], []]

    assert squad_rows(build_rows(flat))["answers"][:] == [spans(Ada=0, Cy=21), spans()]


def test_wrong_offsets_are_corrected_or_set_to_minus_1_and_counted_once():
    answers = [spans(Ada=0), spans(Cy=3), spans(Bob=1, Ada=0), spans(Dan=0)]

    with pytest.warns(DataWarning) as caught:
        rows = squad_rows(build_rows(answers))
    assert rows["answers"][:] == [spans(Ada=0), spans(Cy=21), spans(Bob=-1, Ada=0), spans(Dan=-1)]
    assert [str(warning.message) for warning in caught] == [
        "3 answers are not at their offset, the first 'Cy' at 3 in the context of id 'q1': "
        "1 are once elsewhere and were corrected, 2 are scored but not trained on"
    ]
    assert squad_rows(rows)[:] == rows[:]  # and does not warn again


def test_a_missing_offset_is_found():
    with pytest.warns(DataWarning, match="'Ada' at None"):
        rows = squad_rows(build_rows([{"text": ["Ada"], "answer_start": [None]}]))
    assert rows["answers"][:] == [spans(Ada=0)]


def test_an_overlapping_second_place_is_a_second_place():
    with pytest.warns(DataWarning, match="0 are once elsewhere"):
        rows = squad_rows(build_rows([spans(aa=3)], contexts=["aaa b"]))
    assert rows["answers"][:] == [spans(aa=-1)]


def test_an_empty_context_has_no_answers():
    assert squad_rows(build_rows([spans()], contexts=[""]))["answers"][:] == [spans()]
    with pytest.warns(DataWarning, match="the first 'Ada' at 0 in the context of id 'q0'"):
        rows = squad_rows(build_rows([spans(Ada=0)], contexts=[""]))
    assert rows["answers"][:] == [spans(Ada=-1)]


def test_a_blank_answer_is_no_answer():
    blank = {"text": ["", " "], "answer_start": [0, 3]}

    assert squad_rows(build_rows([blank, spans()]))["answers"][:] == [spans(), spans()]


NOTHING = {"text": None, "answer_start": None}


@pytest.mark.parametrize("missing", [None, NOTHING])
def test_answers_that_some_rows_lack_are_refused_with_the_id(missing):
    with pytest.raises(ValueError, match=r"none for 2 of 3, the first is id 'q1'"):
        squad_rows(build_rows([spans(Ada=0), missing, missing]))


@pytest.mark.parametrize("missing", [None, NOTHING])
def test_questions_without_any_answers_can_be_answered_but_not_learned_from(missing):
    rows = build_rows([missing, missing])
    assert squad_rows(rows)["answers"][:] == [spans(), spans()]
    for unanswered in (rows, rows.remove_columns("answers")):
        with pytest.raises(ValueError, match="'answers'"):
            check_answers(unanswered)
    check_answers(build_rows([spans(), spans()]))


def test_a_null_in_a_list_of_answers_is_refused_with_the_id():
    with pytest.raises(TypeError, match=r"id 'q1'.*got None"):
        squad_rows(build_rows([spans(Ada=0), {"text": [None], "answer_start": [0]}]))


def test_a_duplicate_id_is_refused():
    with pytest.raises(ValueError, match=r"'id'.*got 'b' 2 times"):
        squad_rows(build_rows([spans()] * 3, ids=["a", "b", "b"]))
    with pytest.raises(ValueError, match=r"'id', row 1 .*got None"):
        squad_rows(build_rows([spans()] * 2, ids=["a", None]))


@pytest.mark.parametrize("name", ["question", "context"])
def test_a_value_that_is_not_a_string_is_refused_with_its_row(name):
    table = {"question": ["Who?"] * 2, "context": [CONTEXT] * 2} | {name: ["Who?", None]}

    with pytest.raises(TypeError, match=f"column '{name}', row 1 .*got None"):
        squad_rows(Dataset.from_dict(table))


@pytest.mark.parametrize(
    ("answers", "error", "message"),
    [
        ({"text": [3], "answer_start": [0]}, TypeError, "got 3"),
        ({"text": ["a"], "answer_start": []}, ValueError, "1 texts and 0 offsets"),
        ("Ada", TypeError, "got 'Ada'"),
    ],
)
def test_broken_answers_are_refused_with_their_row(answers, error, message):
    with pytest.raises(error, match=rf"column 'answers', row 0 .*{message}"):
        squad_rows(build_rows([answers]))


def test_evidence_is_kept_and_checked():
    assert squad_rows(build_rows([spans()], evidence=[[[0, 12]]]))["evidence"][:] == [[[0, 12]]]
    with pytest.raises(ValueError, match=r"row 1 .*the 24 characters of the context; got \[3, 25"):
        squad_rows(build_rows([spans()] * 2, evidence=[[[0, 1]], [[0, 1], [3, 25]]]))


def test_rows_of_an_unknown_layout_are_refused():
    with pytest.raises(
        ValueError, match=r"^rows must have the columns 'context', 'question'.*got 'text'"
    ):
        squad_rows(Dataset.from_dict({"text": ["a"]}))


ARTICLES = [
    {
        "title": "People",
        "paragraphs": [
            {
                "context": CONTEXT,
                "qas": [
                    {
                        "id": "1",
                        "question": "Who?",
                        "answers": [{"text": "Ada", "answer_start": 0}],
                        "is_impossible": False,
                    },
                    {
                        "id": "2",
                        "question": "Why?",
                        "answers": [],
                        "plausible_answers": [{"text": "Bob", "answer_start": 8}],
                        "is_impossible": True,
                    },
                ],
            },
            {"context": "Cy.", "qas": [{"id": "3", "question": "Whose?", "answers": []}]},
        ],
    },
    {"paragraphs": []},
]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["dev.json", "dev.json.gz"])
def test_files_of_squad_are_read(tmp_path, name, indent):
    content = json.dumps({"version": "v2.0", "data": ARTICLES}, indent=indent).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)

    rows = squad_rows(read_rows(path))
    assert rows["id"][:] == ["1", "2", "3"]
    assert rows["title"][:] == ["People"] * 3
    assert rows["question"][:] == ["Who?", "Why?", "Whose?"]
    assert rows["context"][:] == [CONTEXT, CONTEXT, "Cy."]
    assert rows["answers"][:] == [spans(Ada=0), spans(), spans()]


def test_a_broken_file_of_squad_is_refused_with_the_place(tmp_path):
    path = tmp_path / "dev.json"
    path.write_text(json.dumps({"data": [*ARTICLES, {"paragraphs": [{"qas": []}]}]}))

    with pytest.raises(ValueError, match=r"dev\.json, article 3, paragraph 1: .*'context'"):
        read_rows(path)


def test_lines_in_the_layout_of_the_hub_are_read(tmp_path):
    path = tmp_path / "dev.jsonl"
    table = build_rows([spans(), spans(Ada=0)], evidence=[[], [[0, 12], [13, 24]]])
    path.write_text("".join(json.dumps(row) + "\n" for row in table))

    assert squad_rows(read_rows(path))[:] == squad_rows(table)[:]
