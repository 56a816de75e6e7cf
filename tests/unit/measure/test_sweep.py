"""A sweep measures the thresholds of the grid, and the threshold of the saved model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import Dataset

import fewer
from fewer.core.stack import Stack
from fewer.measure.evaluate import run_systems
from fewer.measure.scorers import TextScorer
from fewer.measure.sweep import present_threshold, sweep, swept_points
from fewer.methods.exits import FastBERT
from fewer.methods.pruning import SpAtten
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


def test_the_present_threshold_is_a_number_of_the_grid_or_none_if_nothing_exits(
    model: Any,
) -> None:
    assert present_threshold(model) is None
    assert present_threshold(fewer.set_threshold(model, threshold=0.1)) == 0.1  # kept in fp32
    rounded = float(torch.tensor(0.123))
    assert present_threshold(fewer.set_threshold(model, threshold=0.123)) == rounded
    with pytest.raises(ValueError, match=r"must have a threshold.*LTP"):
        present_threshold(fewer.attach(tiny(), fewer.LTP()))


def test_a_saved_threshold_is_measured_in_order_and_answers_are_compared_with_the_dense(
    model: Any, encoded: Dataset
) -> None:
    scorer, tokenizer = TextScorer([0, 1, 2, 0]), word_tokenizer()
    dense = run_systems(model, encoded, tokenizer, scorer)["padded"].answers
    points = sweep(
        model,
        encoded,
        tokenizer,
        scorer,
        thresholds=(0.1, 0.9),
        besides=(0.5, 2.0, 0.1),
        dense=dense,
    )
    # 2.0, at which all texts exit, is outside the range of `set_threshold`; a target may set it
    assert [point["threshold"] for point in points] == [None, 0.1, 0.5, 0.9, 2.0]
    assert points[0]["changed"] == 0.0
    assert points[-1]["exits"][0] == 4
    changed = [point["changed"] for point in points]
    assert changed == sorted(changed)
    assert present_threshold(model) is None  # the given model is not changed


def test_a_grid_from_high_to_low_keeps_its_direction() -> None:
    model = fewer.attach(tiny(num_labels=3), fewer.METHODS["right_tool"]())
    encoded = Dataset.from_dict(
        {"input_ids": [[1, 5, 2]], "attention_mask": [[1, 1, 1]], "length": [3]}
    )
    points = sweep(model, encoded, word_tokenizer(), TextScorer([0]), besides=(0.777,))
    thresholds = [point["threshold"] for point in points[1:]]
    assert thresholds == sorted(thresholds, reverse=True)
    assert 0.777 in thresholds
    assert len(points[0]["halves"]) == 1  # one text has no second half


def test_a_stack_of_thresholds_is_refused_by_name():
    model = fewer.attach(tiny(), Stack((SpAtten(), FastBERT())))
    with pytest.raises(
        ValueError, match=r"one threshold to sweep.* with 2 numbers.* fewer compare"
    ):
        swept_points(model)
    assert swept_points(fewer.attach(tiny(), FastBERT())).size is None
