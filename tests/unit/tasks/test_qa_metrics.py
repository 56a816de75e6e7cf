"""Exact match and F1 by the published rules of SQuAD, worked by hand."""

from __future__ import annotations

import pytest
from datasets import Dataset

from fewer.tasks.qa_metrics import score_answers


def gold(*answers):
    """Make a question for each list of gold answers; none of them is looked for in a context."""
    return Dataset.from_dict(
        {
            "id": [f"q{row}" for row in range(len(answers))],
            "question": ["?"] * len(answers),
            "context": ["-"] * len(answers),
            "answers": [{"text": list(one), "answer_start": [-1] * len(one)} for one in answers],
        }
    )


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "f1"),
    [
        ("Denver Broncos", ["Denver Broncos"], 1, 1),
        ("the  DENVER\tBroncos.", ["a Denver Broncos"], 1, 1),
        ("an apple", ["Apple"], 1, 1),
        ("theatre", ["atre"], 0, 0),  # an article is a word
        ("well-known", ["wellknown"], 1, 1),  # punctuation goes, no blank is left
        ("well known", ["well-known"], 0, 0),
        ("$1,000", ["1000"], 1, 1),
        ("the-dog", ["thedog"], 1, 1),  # punctuation goes before articles
        ("“dog”", ["dog"], 0, 0),  # only ASCII has punctuation
        ("1973\u201374", ["1973-74"], 0, 0),
        ("Ångström", ["ångström"], 1, 1),
        ("dog\u00a0cat", ["dog cat"], 1, 1),
        ("Broncos", ["Denver Broncos"], 0, 2 / 3),
        ("in Denver in May", ["Denver in"], 0, 2 * 2 / (4 + 2)),  # "in" counts once
        ("so so so", ["so so"], 0, 2 * 2 / (3 + 2)),
        ("Denver", ["Broncos", "Denver city", "city of Denver"], 0, 2 / 3),
        ("Denver", ["Broncos", "Denver"], 1, 1),
        ("", ["Denver"], 0, 0),
        ("the", ["Denver"], 0, 0),
        (".", [".", "Denver"], 0, 0),  # a gold answer without a word does not count
        ("the", ["."], 1, 1),  # unless there is no other: it is the empty answer
        ("", [], 1, 1),
        ("the", [], 1, 1),
        ("Denver", [], 0, 0),
    ],
)
def test_one_answer(prediction, answers, exact, f1):
    scores = score_answers({"q0": prediction}, gold(answers))

    assert scores["exact_match"] == exact
    assert scores["f1"] == pytest.approx(f1)


def test_scores_are_means_over_questions():
    rows = gold(["Denver Broncos"], ["Denver"], ["Santa Clara", "Clara"])
    scores = score_answers({"q2": "Clara", "q0": "Broncos", "q1": "May", "other": ""}, rows)

    assert scores == {"f1": pytest.approx((2 / 3 + 0 + 1) / 3), "exact_match": 1 / 3}


def test_questions_without_answer_are_also_scored_separately():
    rows = gold(["Denver Broncos"], [], [], ["Denver"], [])
    answers = {"q0": "Broncos", "q1": "", "q2": "May", "q3": "Denver", "q4": ""}

    assert score_answers(answers, rows) == {
        "f1": pytest.approx((2 / 3 + 1 + 0 + 1 + 1) / 5),
        "exact_match": 3 / 5,
        "has_answer_f1": pytest.approx((2 / 3 + 1) / 2),
        "has_answer_exact_match": 1 / 2,
        "no_answer_exact_match": pytest.approx(2 / 3),
    }


def test_without_answered_questions_there_is_no_score_of_them():
    scores = score_answers({"q0": "", "q1": "x"}, gold([], []))

    assert scores == {"f1": 0.5, "exact_match": 0.5, "no_answer_exact_match": 0.5}


def test_every_question_needs_a_prediction():
    with pytest.raises(ValueError, match=r"^predictions must .*2 of 3 .*ids 'q0', 'q2'"):
        score_answers({"q1": ""}, gold(["a"], ["b"], ["c"]))
    with pytest.raises(ValueError, match="no rows"):
        score_answers({}, gold(["a"]).select([]))
