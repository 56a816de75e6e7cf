"""Scores of systems by feeding, and the texts to calibrate on."""

from __future__ import annotations

from typing import Any

import torch

from fewer.measure.scorers import TextScorer
from fewer.runtimes.adapters import REFERENCE, Runner
from fewer.runtimes.feeding import Inputs
from fewer.runtimes.scores import CALIBRATION, Scores, draw_calibration
from tests.tiny import word_tokenizer
from tests.unit.measure.engine import LENGTHS, encoded


def answer_length(change: int) -> Runner:
    """Return a system whose class is the length modulo 3; texts that are padded get another."""

    def call(inputs: Inputs) -> torch.Tensor:
        mask = inputs["attention_mask"]
        padded = change * (mask.sum(1) < mask.shape[1])
        return torch.nn.functional.one_hot((mask.sum(1) + padded) % 3, 3).float()

    return Runner(call, "fp32")


def timed(*feedings: str) -> dict[str, Any]:
    return {"latency_ms": {str(size): {"feeding": name} for size, name in enumerate(feedings)}}


def test_each_feeding_that_was_fastest_is_scored_once() -> None:
    rows, calls = [6, 0, 3, 1], []
    honest, fragile = answer_length(0), answer_length(1)
    counted = Runner(lambda inputs: calls.append(1) or fragile.call(inputs), "int8")
    scorer = TextScorer([length % 3 for length in LENGTHS])
    scores = Scores({REFERENCE: honest, "a": counted}, encoded(), rows, scorer, word_tokenizer())
    systems = {REFERENCE: timed("whole"), "a": timed("alone", "whole", "alone")}
    scores.add_to(systems)
    scores.add_to(systems)
    assert len(calls) == 4 + 1  # text by text, and all at once
    assert systems[REFERENCE]["scores"]["whole"]["metrics"]["accuracy"] == 1.0
    assert systems["a"]["scores"]["alone"]["agreement"] == 1.0
    assert systems["a"]["scores"]["whole"]["agreement"] == 0.25  # the longest is not padded
    assert systems["a"]["scores"]["whole"]["metrics"]["accuracy"] == 0.25
    assert systems["a"]["scored"] == 4


def test_texts_to_calibrate_on_are_no_others() -> None:
    calibration, rest = draw_calibration(1000, seed=0)
    assert len(calibration) == CALIBRATION
    assert sorted([*calibration, *rest]) == list(range(1000))
    assert draw_calibration(1000, seed=0) == (calibration, rest)
    assert len(draw_calibration(8, seed=0)[0]) == 2
    assert calibration != sorted(calibration)
