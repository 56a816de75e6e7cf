"""Viterbi against all sequences there are; what may follow what; headless tags."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from fewer.tasks.bio import (
    count_starts,
    decode,
    heads_of,
    is_bio,
    legal,
    legal_first,
    repair,
)

BIO = ("O", "B-X", "I-X", "B-Y", "I-Y")
LABEL_SETS = [
    BIO,
    ("I-X", "O", "B-X"),
    ("I-X", "I-Y", "B-X"),  # I-Y has no B-Y: it may stand anywhere
    ("B-X", "I-X", "[SEP]"),
]


def allowed(names, labels):
    """Say it once more, plainly: I-X wants X before it, unless there is no B-X at all."""
    tags = [names[label] for label in labels]
    for before, tag in zip(["start", *tags], tags, strict=False):
        head = "B-" + tag[2:]
        if tag.startswith("I-") and head in names and before not in (head, tag):
            return False
    return True


def best_of_all(scores, names):
    sequences = product(range(len(names)), repeat=len(scores))
    legal_ones = [labels for labels in sequences if allowed(names, labels)]
    return max(legal_ones, key=lambda labels: sum(scores[range(len(scores)), labels]))


@pytest.mark.parametrize("names", LABEL_SETS, ids=" ".join)
@pytest.mark.parametrize("words", [1, 2, 3, 5])
def test_viterbi_finds_the_best_of_all_legal_sequences(names, words):
    generator = np.random.default_rng(words)
    changed = 0
    for _ in range(40):
        scores = generator.normal(size=(words, len(names)))
        labels = decode(scores, names)
        assert labels == list(best_of_all(scores, names))
        changed += labels != scores.argmax(1).tolist()
    assert changed > 0  # else the test says nothing of Viterbi


def test_transitions_of_a_small_label_set():
    moves = legal(BIO)
    assert moves.dtype == bool
    into_x = {BIO[before] for before in range(5) if moves[before, BIO.index("I-X")]}
    assert into_x == {"B-X", "I-X"}
    assert moves[:, [0, 1, 3]].all()
    assert legal_first(BIO).tolist() == [True, True, False, True, False]


def test_the_rules_given_out_are_a_copy():
    legal(BIO)[:] = False
    assert legal(BIO).any()


@pytest.mark.parametrize(
    "names", [("NOUN", "VERB"), ("O", "B-X", "I-X", "E-X", "S-X"), ("A-b", "C")]
)
def test_label_sets_without_bio_are_unconstrained(names):
    scores = np.random.default_rng(0).normal(size=(20, len(names)))
    assert not is_bio(names)
    assert legal(names).all()
    assert decode(scores, names) == scores.argmax(1).tolist()


def test_a_legal_best_is_the_answer_and_logits_do_as_well():
    generator = np.random.default_rng(3)
    scores = generator.normal(size=(30, 5))
    shifted = scores + generator.normal(size=(30, 1))
    assert decode(scores, BIO) == decode(shifted, BIO)
    sure = np.full((3, 5), -5.0)
    sure[[0, 1, 2], [3, 4, 0]] = 0.0
    assert decode(sure, BIO) == [3, 4, 0]


def test_infinite_scores_give_a_legal_sequence():
    barred = np.full((3, 5), -np.inf)
    labels = decode(barred, BIO)
    assert allowed(BIO, labels)
    barred[:, 2] = 0.0  # only I-X is possible, and may not begin
    labels = decode(barred, BIO)
    assert allowed(BIO, labels)
    assert labels[1:] == [2, 2]


def test_a_long_sentence_is_decoded_to_legal_tags():
    scores = np.random.default_rng(1).normal(size=(5000, 5))
    assert allowed(BIO, decode(scores, BIO))


def test_no_words_have_no_tags():
    assert decode(np.zeros((0, 5)), BIO) == []
    assert repair([]) == []


def test_broken_scores_are_refused():
    with pytest.raises(ValueError, match=r"^log_probabilities .*\(words, 5\); got \(2, 4\)"):
        decode(np.zeros((2, 4)), BIO)
    with pytest.raises(ValueError, match=r"^log_probabilities must be numbers; got NaN"):
        decode(np.full((1, 5), np.nan), BIO)


@pytest.mark.parametrize(
    ("tags", "repaired"),
    [
        ("I-X I-X O", "B-X I-X O"),
        ("O I-X B-X I-X", "O B-X B-X I-X"),
        ("B-X I-Y I-Y", "B-X B-Y I-Y"),
        ("B-X I-X I-Y I-X", "B-X I-X B-Y B-X"),
        ("NOUN O B-X", "NOUN O B-X"),
    ],
)
def test_an_inside_tag_without_a_mention_begins_one(tags, repaired):
    assert repair(tags.split()) == repaired.split()


@pytest.mark.parametrize("names", [("o", "b_x", "i_x"), ("O", "B", "I"), ("O", "X-B", "X-I")])
def test_all_spellings_have_the_same_transitions(names):
    usual = ("O", "B-X", "I-X")
    assert is_bio(names)
    assert (legal(names) == legal(usual)).all()
    assert legal_first(names).tolist() == [True, True, False]
    assert heads_of(names) == {names[2]: names[1]}
    scores = np.random.default_rng(5).normal(size=(50, 3))
    assert decode(scores, names) == decode(scores, usual) != scores.argmax(1).tolist()
    tags = [names[label] for label in scores.argmax(1)]
    repaired = repair([usual[label] for label in scores.argmax(1)])
    assert repair(tags, names) == [names[usual.index(tag)] for tag in repaired] != tags


def test_a_repair_uses_only_tags_of_the_label_set():
    assert repair(["I-X", "I-Y"], ["O", "I-X", "I-Y", "B-Y"]) == ["I-X", "B-Y"]


@pytest.mark.parametrize(
    ("tags", "starts"),
    [
        ("I-X I-X O I-Y", (2, 0)),  # IOB1
        ("I-X B-X B-X I-X", (1, 0)),
        ("B-X I-X O B-Y", (0, 2)),  # BIO
        ("B-X B-X I-Y", (1, 1)),
        ("O O", (0, 0)),
    ],
)
def test_mentions_are_counted_by_their_first_tag(tags, starts):
    assert count_starts([tags.split(), []], BIO) == starts
