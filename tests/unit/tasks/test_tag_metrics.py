"""Entities counted by hand; the number of seqeval; no warning, no number that is not one."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from seqeval.metrics import f1_score

from fewer.tasks.tag_metrics import score_tags

WANTED = [["B-PER", "I-PER", "O", "B-LOC"], [], ["O", "B-ORG"]]


def test_gold_against_gold_is_one():
    assert score_tags(WANTED, WANTED) == {"f1": 1, "precision": 1, "recall": 1, "accuracy": 1}


def test_entities_are_counted_by_type_and_both_ends():
    predicted = [
        ["B-PER", "O", "O", "B-LOC"],
        [],
        ["O", "B-LOC"],
    ]  # 1 of 3 found is right, of 3 wanted
    scores = score_tags(predicted, WANTED)
    assert scores == pytest.approx(
        {"f1": 1 / 3, "precision": 1 / 3, "recall": 1 / 3, "accuracy": 4 / 6}
    )


def test_precision_and_recall_are_not_exchanged():
    predicted = [["B-PER", "I-PER", "O", "O"], [], ["O", "O"]]
    scores = score_tags(predicted, WANTED)
    assert (scores["precision"], scores["recall"]) == (1.0, pytest.approx(1 / 3))
    assert scores["f1"] == pytest.approx(0.5)


def test_a_tag_that_continues_nothing_begins_an_entity():
    assert score_tags([["O", "I-PER"]], [["O", "B-PER"]])["f1"] == 1.0


def test_no_predicted_entity_scores_zero_without_a_warning():
    nothing = [["O"] * len(tags) for tags in WANTED]
    assert score_tags(nothing, WANTED) == {
        "f1": 0,
        "precision": 0,
        "recall": 0,
        "accuracy": 2 / 6,
    }
    assert score_tags(nothing, nothing) == {"f1": 0, "precision": 0, "recall": 0, "accuracy": 1}


def test_random_tags_score_as_seqeval_says():
    generator = np.random.default_rng(0)
    names = ["O", "B-X", "I-X", "B-Y", "I-Y"]
    gold_tags, predicted = (
        [list(generator.choice(names, size)) for size in (7, 1, 30, 12)] for _ in range(2)
    )
    value = score_tags(predicted, gold_tags)["f1"]
    assert 0 < value < 1
    assert value == pytest.approx(f1_score(gold_tags, predicted))


@pytest.mark.parametrize(
    ("predicted", "gold_tags", "f1"),
    [
        ("B-X M-X E-X S-Y", "B-X M-X E-X S-Y", 1.0),  # BMES
        ("B-X I-X L-X U-Y", "B-X I-X L-X O", 2 / 3),  # BILOU
        ("B-X X [SEP] O", "B-X O O O", 1.0),  # names that are no entity: no entity
    ],
)
def test_all_schemes_of_entities_are_scored(predicted, gold_tags, f1):
    assert score_tags([predicted.split()], [gold_tags.split()])["f1"] == pytest.approx(f1)


def test_other_tags_have_accuracy_and_macro_f1():
    scores = score_tags([["NOUN", "NOUN"], ["VERB"]], [["NOUN", "VERB"], ["VERB"]])
    assert scores == pytest.approx({"accuracy": 2 / 3, "f1": 2 / 3})
    assert score_tags([["NOUN"]], [["VERB"]]) == {"accuracy": 0.0, "f1": 0.0}


def test_sentences_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="1 predicted and 2 gold"):
        score_tags([["O"]], [["O"], ["O"]])
    with pytest.raises(ValueError, match=r"^sentence 1 .*got 2 predicted and 1 gold"):
        score_tags([["O"], ["O", "O"]], [["O"], ["O"]])
    with pytest.raises(TypeError, match=r"sentence 0 .*got a string"):
        score_tags(["O"], [["O"]])
    with pytest.raises(ValueError, match=r"^gold must have words"):
        score_tags([[]], [[]])


@pytest.mark.parametrize(
    "tags", ["B I O", "b i o", "B-X I-X O", "b-x i-x o", "B_X I_X O", "X-B X-I O"]
)
def test_every_spelling_of_bio_scores_as_seqeval_scores_the_untyped(tags):
    begin, inside, outside = tags.split()
    gold_tags = [[begin, inside, outside, begin]]
    predicted = [[begin, inside, inside, begin]]
    scores = score_tags(predicted, gold_tags)
    assert scores == {"f1": 0.5, "precision": 0.5, "recall": 0.5, "accuracy": 0.75}
    assert f1_score([["B", "I", "O", "B"]], [["B", "I", "I", "B"]]) == 0.5


def test_the_label_set_decides_the_scheme_where_few_tags_occur():
    assert set(score_tags([["S", "O"]], [["S", "S"]])) == {"f1", "accuracy"}
    known = score_tags([["S", "O"]], [["S", "S"]], label_names=("B", "I", "E", "S", "O"))
    assert known["f1"] == pytest.approx(2 / 3)
    assert known["recall"] == 0.5


def test_a_tag_that_would_silently_count_as_outside_is_refused():
    with pytest.raises(ValueError, match="got 'H-X'"):
        score_tags([["B-X", "H-X"]], [["B-X", "I-X"]])


SPELLINGS = {
    "usual": "{0}-{1}",
    "mark": "{0}_{1}",
    "suffix": "{1}-{0}",
    "small": "{2}-{1}",
    "alone": "{0}",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_random_tags_of_every_spelling_score_as_seqeval_says(spelling):
    types = "X" if spelling == "alone" else "XY"
    names = {"O": "o" if spelling == "small" else "O"}
    for prefix, type_ in product("BI", types):
        form = SPELLINGS[spelling].format(prefix, type_, prefix.lower())
        names[f"{prefix}-{type_}"] = form
    generator = np.random.default_rng(7)
    values = set()
    for _ in range(20):
        gold, predicted = (
            [list(map(str, generator.choice(list(names), size))) for size in (5, 1, 9)]
            for _ in range(2)
        )
        spelled = [[[names[tag] for tag in tags] for tags in rows] for rows in (predicted, gold)]
        values.add(value := score_tags(*spelled)["f1"])
        assert value == pytest.approx(f1_score(gold, predicted))
    assert len(values) > 5
