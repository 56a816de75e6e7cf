"""Metrics of predictions: accuracy, F1, Matthews; micro and macro F1; Pearson, Spearman.

Every number is finite: a correlation (Matthews is one) with a constant is 0.0, and so is the F1 of
a class that is never predicted or never occurs.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def score(predictions: ArrayLike, labels: ArrayLike, *, regression: bool) -> dict[str, float]:
    """Score predictions against labels; higher is better.

    Classification: `predictions` are logits (B, C) or classes (B,); gives accuracy, f1, matthews.
    With two classes f1 is that of class 1, with more the mean over the classes that occur in
    predictions or labels (macro). Regression: numbers (B,) or (B, 1); gives pearson, spearman.

    >>> score([[2.0, 1.0], [0.0, 3.0]], [0, 1], regression=False)
    {'accuracy': 1.0, 'f1': 1.0, 'matthews': 1.0}
    """
    predicted, targets = np.asarray(predictions), np.asarray(labels)
    _check_shapes(predicted.shape, targets.shape, regression)
    _check_finite("predictions", predicted)
    _check_finite("labels", targets)
    if regression:
        return _score_numbers(predicted.reshape(-1).astype(np.float64), targets.astype(np.float64))
    if predicted.ndim == 1:
        return _score_classes(predicted, targets, int(max(predicted.max(), targets.max())) + 1)
    return _score_classes(predicted.argmax(-1), targets, predicted.shape[1])


def score_labels(predictions: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Score labels (B, C) that apply (true) or not against the true ones; higher is better.

    `micro_f1` counts all labels of all texts together; `macro_f1` is the mean of the F1 of each
    label that occurs in predictions or labels.

    >>> score_labels([[1, 0], [1, 1]], [[1, 0], [0, 1]])
    {'micro_f1': 0.8, 'macro_f1': 0.833...}
    """
    predicted, targets = np.asarray(predictions) > 0, np.asarray(labels) > 0
    if predicted.ndim != 2 or predicted.shape != targets.shape:
        raise ValueError(
            f"predictions and labels must have one shape (B, C); got {predicted.shape} and "
            f"{targets.shape}."
        )
    if not len(targets):
        raise ValueError("labels must have rows to score; got no rows.")
    from sklearn.metrics import f1_score

    micro = float(f1_score(targets.ravel(), predicted.ravel(), zero_division=0.0))
    occurring = np.flatnonzero((predicted | targets).any(0))
    macro = micro  # of one label or none
    if len(occurring) > 1:
        settings = {"average": "macro", "zero_division": 0.0}
        macro = float(f1_score(targets[:, occurring], predicted[:, occurring], **settings))
    return {"micro_f1": micro, "macro_f1": macro}


def _score_classes(
    predicted: NDArray[Any], targets: NDArray[Any], classes: int
) -> dict[str, float]:
    """Return accuracy, F1 and Matthews of classes."""
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    scored_classes = [1] if classes <= 2 else np.union1d(predicted, targets)
    f1 = f1_score(targets, predicted, labels=scored_classes, average="macro", zero_division=0.0)
    return {
        "accuracy": float(accuracy_score(targets, predicted)),
        "f1": float(f1),
        "matthews": _correlate(matthews_corrcoef, targets, predicted),
    }


def _score_numbers(predicted: NDArray[Any], targets: NDArray[Any]) -> dict[str, float]:
    """Return Pearson and Spearman of numbers."""
    from scipy.stats import pearsonr, spearmanr

    return {
        "pearson": _correlate(lambda a, b: pearsonr(a, b).statistic, predicted, targets),
        "spearman": _correlate(lambda a, b: spearmanr(a, b).statistic, predicted, targets),
    }


def _correlate(measure: Callable[[Any, Any], Any], a: NDArray[Any], b: NDArray[Any]) -> float:
    """Compute a correlation; 0.0 where it is undefined."""
    if a.min() == a.max() or b.min() == b.max():
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of nearly constant values: the score shows it
        value = float(measure(a, b))
    return value if math.isfinite(value) else 0.0


def _check_shapes(predicted: tuple[int, ...], targets: tuple[int, ...], regression: bool) -> None:
    columns = "1" if regression else "C"
    is_aligned = len(targets) == 1 and len(predicted) in (1, 2) and predicted[0] == targets[0]
    if not is_aligned or (regression and predicted[1:] not in ((), (1,))):
        raise ValueError(
            f"predictions must have the shape (B,) or (B, {columns}), labels (B,); got {predicted} "
            f"and {targets}."
        )
    if targets[0] == 0:
        raise ValueError("labels must have rows to score; got no rows.")


def _check_finite(name: str, values: NDArray[Any]) -> None:
    broken = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(-1))
    if len(broken):
        raise ValueError(
            f"{name} must be finite; got NaN or infinity in {len(broken)} rows, the first is row "
            f"{broken[0]}. Check the model and its training."
        )
