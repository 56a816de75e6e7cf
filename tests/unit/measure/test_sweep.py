"""A sweep reads at the thresholds of the grid, and at the one that the model was saved with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import Dataset

import fewer
from fewer.measure.evaluate import read_systems
from fewer.measure.scorers import TextScorer
from fewer.measure.sweep import present_threshold, sweep
from tests.tiny import tiny, word_tokenizer

TEXTS = ["a b c", "d", "e a b c d e", "a a"]


@pytest.fixture
def model() -> Any:
    return fewer.attach(tiny(num_labels=3), fewer.EarlyExit())


@pytest.fixture
def encoded() -> Dataset:
    rows = [word_tokenizer()(text) for text in TEXTS]
    columns = {name: [row[name] for row in rows] for name in ("input_ids", "attention_mask")}
    return Dataset.from_dict({**columns, "length": [len(ids) for ids in columns["input_ids"]]})


def test_the_threshold_in_force_is_the_grids_number_or_none_where_nothing_leaves(
    model: Any,
) -> None:
    assert present_threshold(model) is None
    assert present_threshold(fewer.set_threshold(model, threshold=0.1)) == 0.1  # kept in fp32
    odd = float(torch.tensor(0.123))
    assert present_threshold(fewer.set_threshold(model, threshold=0.123)) == odd
    with pytest.raises(ValueError, match="no threshold"):
        present_threshold(fewer.attach(tiny(), fewer.LTP()))


def test_a_saved_threshold_is_measured_where_it_belongs_and_answers_are_held_against_the_dense(
    model: Any, encoded: Dataset
) -> None:
    scorer, tokenizer = TextScorer([0, 1, 2, 0]), word_tokenizer()
    dense = read_systems(model, encoded, tokenizer, scorer)["padded"].answers
    points = sweep(
        model,
        encoded,
        tokenizer,
        scorer,
        thresholds=(0.1, 0.9),
        besides=(0.5, 2.0, 0.1),
        dense=dense,
    )
    # 2.0, at which all leave, is outside what `set_threshold` takes, but a fitted target may set it
    assert [point["threshold"] for point in points] == [None, 0.1, 0.5, 0.9, 2.0]
    assert points[0]["changed"] == 0.0
    assert points[-1]["exits"][0] == 4
    early = [point["changed"] for point in points]
    assert early == sorted(early)
    assert present_threshold(model) is None  # the given model is not changed


def test_a_grid_from_high_to_low_keeps_its_direction() -> None:
    model = fewer.attach(tiny(num_labels=3), fewer.METHODS["right_tool"]())
    encoded = Dataset.from_dict(
        {"input_ids": [[1, 5, 2]], "attention_mask": [[1, 1, 1]], "length": [3]}
    )
    points = sweep(model, encoded, word_tokenizer(), TextScorer([0]), besides=(0.777,))
    given = [point["threshold"] for point in points[1:]]
    assert given == sorted(given, reverse=True)
    assert 0.777 in given
    assert len(points[0]["halves"]) == 1  # one text has no second half
