"""Scores worked out by hand, and never NaN."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fewer.tasks.metrics import score, score_labels


def test_binary_scores_by_hand():
    """Two hits, one miss of class 1, one false alarm: TP 2, FN 1, FP 1, TN 1."""
    scores = score([1, 1, 0, 1, 0], [1, 1, 1, 0, 0], regression=False)

    assert scores["accuracy"] == pytest.approx(3 / 5)
    assert scores["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert scores["matthews"] == pytest.approx((2 * 1 - 1 * 1) / math.sqrt(3 * 3 * 2 * 2))


def test_macro_f1_is_the_mean_over_classes_that_occur():
    """Class 0: two hits, one false alarm, F1 4/5; class 1: F1 0; class 3: F1 1; no class 2."""
    logits = np.eye(4)[[0, 0, 0, 3]]

    assert score(logits, [0, 0, 1, 3], regression=False)["f1"] == pytest.approx((4 / 5 + 0 + 1) / 3)


def test_logits_and_classes_score_alike():
    logits = torch.tensor([[2.0, 1.0], [0.5, 3.0], [1.0, 4.0]])
    labels = torch.tensor([0, 0, 1])

    of_logits = score(logits, labels, regression=False)
    assert of_logits == score(logits.argmax(-1), labels, regression=False)
    assert of_logits == score([0, 1, 1], [0, 0, 1], regression=False)


def test_correlations_by_hand():
    """Ranks 1 2 3 4 against 1 2 4 3: Spearman 1 - 6 * 2 / (4 * 15)."""
    scores = score([[1.0], [2.0], [3.0], [10.0]], [1.0, 2.0, 4.0, 3.0], regression=True)

    assert scores["spearman"] == pytest.approx(0.8)
    assert scores["pearson"] == pytest.approx(np.corrcoef([1, 2, 3, 10], [1, 2, 4, 3])[0, 1])


@pytest.mark.parametrize("predictions", [[0, 0, 0], [1, 1, 1]])
@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1], [0, 1, 0]])
def test_constant_classes_are_finite(predictions, labels):
    scores = score(predictions, labels, regression=False)

    assert scores["matthews"] == 0.0
    assert all(0.0 <= value <= 1.0 for value in scores.values())


def test_one_class_out_of_many_is_finite():
    scores = score(np.eye(3)[[2, 2]], [2, 2], regression=False)

    assert scores == {"accuracy": 1.0, "f1": 1.0, "matthews": 0.0}


@pytest.mark.parametrize(
    ("predictions", "labels"),
    [
        ([2.0, 2.0, 2.0], [1.0, 2.0, 3.0]),
        ([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]),
        ([1.0], [3.0]),
    ],
)
def test_correlations_with_a_constant_are_zero(predictions, labels):
    assert score(predictions, labels, regression=True) == {"pearson": 0.0, "spearman": 0.0}


def test_nearly_constant_predictions_are_finite_and_silent():
    scores = score([1.0, 1.0, 1.0 + 2e-16 * 2], [1.0, 2.0, 3.0], regression=True)

    assert all(math.isfinite(value) for value in scores.values())


def test_huge_predictions_are_finite_and_silent():
    scores = score([1e308, -1e308, 1e307], [1.0, 2.0, 3.0], regression=True)

    assert all(math.isfinite(value) for value in scores.values())


@pytest.mark.parametrize("regression", [True, False])
def test_nan_is_refused_with_its_row(regression):
    with pytest.raises(
        ValueError, match=r"^predictions must be finite.*in 1 rows, the first is row 1"
    ):
        score([[0.0], [math.nan]], [0.0, 1.0], regression=regression)
    with pytest.raises(ValueError, match=r"^labels must be finite"):
        score([0.0, 1.0], [0.0, math.inf], regression=regression)


@pytest.mark.parametrize(
    ("predictions", "labels", "regression"),
    [
        ([0, 1], [0, 1, 1], False),
        ([[[0]]], [0], False),
        ([0], [[0]], False),
        ([[0.0, 1.0]], [1.0], True),
        (1.0, 1.0, True),
    ],
)
def test_shapes_that_do_not_fit_are_named(predictions, labels, regression):
    with pytest.raises(ValueError, match=r"^predictions must have the shape \(B,\) or .*; got \("):
        score(predictions, labels, regression=regression)


def test_nothing_to_score_is_an_error():
    with pytest.raises(ValueError, match="no rows"):
        score([], [], regression=False)


def test_micro_f1_counts_all_labels_and_macro_f1_averages_labels():
    predicted = [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    targets = [[1, 0, 0], [0, 1, 0], [1, 0, 0]]
    # label 0: 1 hit, 1 false, 1 missed; label 1: 1 hit; label 2 never occurs
    result = score_labels(predicted, targets)
    assert result == {"micro_f1": pytest.approx(2 / 3), "macro_f1": pytest.approx(0.75)}


@pytest.mark.parametrize(("predicted", "score"), [([[1], [0]], 1.0), ([[0], [1]], 0.0)])
def test_one_label_is_scored_by_its_own_f1(predicted, score):
    assert score_labels(predicted, [[1], [0]]) == {"micro_f1": score, "macro_f1": score}


def test_no_label_at_all_scores_zero():
    assert score_labels([[0, 0]], [[0, 0]]) == {"micro_f1": 0.0, "macro_f1": 0.0}


def test_labels_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"one shape \(B, C\); got \(1, 2\) and \(2, 1\)"):
        score_labels([[1, 0]], [[1], [0]])
    with pytest.raises(ValueError, match="labels must have rows"):
        score_labels(np.zeros((0, 2)), np.zeros((0, 2)))
