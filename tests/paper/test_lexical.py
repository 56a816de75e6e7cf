"""The lexical prior by hand: inverse document frequencies, and hints that fade with distance."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from fewer.core.packed import Packed, plan
from fewer.methods.pruning.lexical import count_documents, idf_of_counts, lexical_scores
from tests.rounding import assert_same

# [CLS] = 0, [SEP] = 9; the first text of each row is a question, the second what may answer it
ROWS = ([0, 1, 2, 9, 3, 2, 4, 4, 9], [0, 5, 9, 6, 7, 9])
SECOND = ([0, 0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1])


def _pack(rows: Any = ROWS, second: Any = SECOND) -> Packed:
    width = max(map(len, rows))
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    where = plan(mask, (len(rows), width), torch.device("cpu"))
    flat = torch.tensor([number for row in rows for number in row])
    seconds = torch.tensor([number for row in second for number in row]).bool()
    hidden = torch.zeros(len(flat), 1)
    start = where.column == 0
    return Packed.start(where, hidden, where.column, start, seconds, ids=flat)


def test_documents_are_the_second_texts_that_have_a_token() -> None:
    counts, documents = count_documents(_pack(), 10)
    assert documents == 2
    assert counts.tolist() == [0, 0, 1, 1, 1, 0, 1, 1, 0, 2]


def test_a_token_that_every_text_has_weighs_nothing() -> None:
    """ln(3 / 2) for a token of one of two texts, ln(3 / 1) for one of none, 0 for one of both."""
    idf = idf_of_counts(*count_documents(_pack(), 10))
    expected = {9: 0.0, 2: math.log(1.5), 5: math.log(3)}
    assert {number: idf[number].item() for number in expected} == pytest.approx(expected)


def test_a_hint_fades_by_a_tenth_a_token() -> None:
    """Token 2 of the first row, the only one in both texts, is in column 5."""
    idf = idf_of_counts(*count_documents(_pack(), 10))
    hints = torch.tensor([0, 0, 0, 0, 0.9, 1.0, 0.9, 0.81, 0.729])
    scores = lexical_scores(_pack(), idf)
    assert_same(scores[:9], hints / hints[4:].mean())


def test_without_a_shared_word_all_tokens_of_the_second_text_stay() -> None:
    """The separator, which is in both, weighs nothing."""
    idf = idf_of_counts(*count_documents(_pack(), 10))
    assert lexical_scores(_pack(), idf)[9:].tolist() == [0, 0, 0, *[math.inf] * 3]


def test_scores_do_not_depend_on_the_other_texts_of_a_batch() -> None:
    idf = torch.linspace(0.1, 1.0, 10)
    together = lexical_scores(_pack(), idf)
    alone = [lexical_scores(_pack(ROWS[i : i + 1], SECOND[i : i + 1]), idf) for i in range(2)]
    assert torch.equal(together, torch.cat(alone))


def test_the_nearest_of_two_hints_need_not_be_the_strongest() -> None:
    """Hints 1.0 at column 3 and 0.5 at column 5: column 4 hears 0.9, column 6 max(0.729, 0.45)."""
    idf = torch.zeros(10)
    idf[1], idf[2] = 1.0, 0.5
    scores = lexical_scores(_pack([[0, 1, 2, 1, 7, 2, 7]], [[0, 0, 0, 1, 1, 1, 1]]), idf)
    hints = torch.tensor([1.0, 0.9, 0.81, 0.729])
    assert_same(scores[3:], hints / hints.mean())
