"""Thresholds of labels chosen on rows: the best F1, and the default where it is as good."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from sklearn.metrics import f1_score

import fewer
from fewer.hf.label_thresholds import label_thresholds
from fewer.tasks import MultiLabel
from fewer.training.label_thresholds import (
    best_thresholds,
    choose_label_thresholds,
    save_label_thresholds,
)
from tests.tiny import tiny, word_tokenizer

MULTI = {"problem_type": "multi_label_classification"}


def test_the_threshold_lies_between_the_two_probabilities_that_it_parts():
    probabilities = torch.tensor([[0.1], [0.2], [0.3], [0.4]])
    (threshold,) = best_thresholds(probabilities, [[0.0], [0.0], [1.0], [1.0]])
    assert threshold == pytest.approx(0.25)


@pytest.mark.parametrize("labels", [[[0.0]] * 3, [[1.0]] * 3, [[0.0], [1.0], [1.0]]])
def test_the_default_stays_where_nothing_is_better(labels):
    assert best_thresholds(torch.tensor([[0.2], [0.6], [0.9]]), labels) == [0.5]


def test_no_other_threshold_has_a_better_f1():
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(60, 4, generator=generator) < 0.3).double()
    probabilities = (0.4 * labels + 0.6 * torch.rand(60, 4, generator=generator)).double()
    for column, threshold in enumerate(best_thresholds(probabilities, labels.tolist())):
        values, targets = probabilities[:, column], labels[:, column]
        every = [f1_score(targets, values > cut) for cut in [0.0, 0.5, *values.tolist()[:-1]]]
        assert f1_score(targets, values > threshold) == max(every)


def test_chosen_thresholds_are_set_and_saved_with_the_model(tmp_path):
    model = fewer.attach(tiny(**MULTI), fewer.Dense())
    table = Dataset.from_dict(
        {
            "text": [f"w{n} w{n + 1} w3" for n in range(24)],
            "labels": [[name for name in "abc" if (n * ord(name)) % 5 < 2] for n in range(24)],
        }
    )
    task = MultiLabel(label_names=("a", "b", "c"))
    encoded = task.encode(table, word_tokenizer(), max_length=8)
    fewer.save(model, tmp_path)
    chosen = choose_label_thresholds(model, word_tokenizer(), encoded)
    assert label_thresholds(model.config).tolist() == pytest.approx(chosen)
    assert save_label_thresholds(tmp_path, word_tokenizer(), encoded) == pytest.approx(chosen)
    assert label_thresholds(fewer.load(tmp_path).config).tolist() == pytest.approx(chosen)
