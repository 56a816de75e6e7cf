"""Thresholds of labels live in the config: copied, saved and loaded with the model."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from transformers import AutoConfig

import fewer
from fewer.hf.label_thresholds import label_margins, label_thresholds, set_label_thresholds
from tests.tiny import tiny

MULTI = {"problem_type": "multi_label_classification"}


def test_half_is_the_default():
    assert label_thresholds(tiny(**MULTI).config).tolist() == [0.5, 0.5, 0.5]


def test_thresholds_survive_copies_detaching_saving_and_transformers(tmp_path):
    model = fewer.attach(tiny(**MULTI), fewer.Dense())
    set_label_thresholds(model, [0.25, 0.5, 0.75])
    fewer.save(model, tmp_path)
    for config in (
        copy.deepcopy(model).config,
        fewer.detach(copy.deepcopy(model)).config,
        fewer.load(tmp_path).config,
        AutoConfig.from_pretrained(tmp_path),
    ):
        assert label_thresholds(config).tolist() == [0.25, 0.5, 0.75]
    assert json.loads((tmp_path / "config.json").read_text())["label_thresholds"][0] == 0.25


def test_a_margin_is_positive_where_the_probability_is_above_the_threshold():
    model = tiny(**MULTI)
    set_label_thresholds(model, [0.2, 0.5, 0.9])
    logits = torch.tensor([[-1.0, -0.1, 2.0], [-2.0, 0.1, 2.3]])
    expected = logits.sigmoid() > torch.tensor([0.2, 0.5, 0.9])
    assert torch.equal(label_margins(model.config, logits) > 0, expected)
    assert expected.tolist() == [[True, False, False], [False, True, True]]


@pytest.mark.parametrize("bad", [[0.5], [0.5, 0.5, 1.0], [0.0, 0.5, 0.5], "0.5", [0.5, 0.5, "x"]])
def test_wrong_thresholds_are_refused(bad):
    model = tiny(**MULTI)
    with pytest.raises(ValueError, match="thresholds must hold 3 numbers"):
        set_label_thresholds(model, bad)
    model.config.label_thresholds = bad
    with pytest.raises(ValueError, match=r"config\.label_thresholds must hold 3 numbers"):
        label_thresholds(model.config)
