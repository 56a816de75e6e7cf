"""How good the answers are: accuracy, F1, Matthews; Pearson, Spearman.

Every number is finite: a correlation (Matthews is one) with something constant is 0.0, and so is
the F1 of a class that is never predicted or never occurs.
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
    predicted, wanted = np.asarray(predictions), np.asarray(labels)
    _check_shapes(predicted.shape, wanted.shape, regression)
    _check_finite("predictions", predicted)
    _check_finite("labels", wanted)
    if regression:
        return _correlations(predicted.reshape(-1).astype(np.float64), wanted.astype(np.float64))
    if predicted.ndim == 1:
        return _agreement(predicted, wanted, int(max(predicted.max(), wanted.max())) + 1)
    return _agreement(predicted.argmax(-1), wanted, predicted.shape[1])


def _agreement(predicted: NDArray[Any], wanted: NDArray[Any], classes: int) -> dict[str, float]:
    """Compare classes."""
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    counted = [1] if classes <= 2 else np.union1d(predicted, wanted)
    f1 = f1_score(wanted, predicted, labels=counted, average="macro", zero_division=0.0)
    return {
        "accuracy": float(accuracy_score(wanted, predicted)),
        "f1": float(f1),
        "matthews": _correlation(matthews_corrcoef, wanted, predicted),
    }


def _correlations(predicted: NDArray[Any], wanted: NDArray[Any]) -> dict[str, float]:
    """Compare numbers."""
    from scipy.stats import pearsonr, spearmanr

    return {
        "pearson": _correlation(lambda a, b: pearsonr(a, b).statistic, predicted, wanted),
        "spearman": _correlation(lambda a, b: spearmanr(a, b).statistic, predicted, wanted),
    }


def _correlation(measure: Callable[[Any, Any], Any], a: NDArray[Any], b: NDArray[Any]) -> float:
    """Measure a correlation; 0.0 where it is undefined."""
    if a.min() == a.max() or b.min() == b.max():
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the nearly constant: the number is the warning
        value = float(measure(a, b))
    return value if math.isfinite(value) else 0.0


def _check_shapes(predicted: tuple[int, ...], wanted: tuple[int, ...], regression: bool) -> None:
    columns = "1" if regression else "C"
    fits = len(wanted) == 1 and len(predicted) in (1, 2) and predicted[0] == wanted[0]
    if not fits or (regression and predicted[1:] not in ((), (1,))):
        raise ValueError(
            f"wanted predictions of shape (B,) or (B, {columns}) and labels of shape (B,), "
            f"got {predicted} and {wanted}"
        )
    if wanted[0] == 0:
        raise ValueError("there is nothing to score: no rows")


def _check_finite(name: str, values: NDArray[Any]) -> None:
    broken = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(-1))
    if len(broken):
        raise ValueError(
            f"{name} hold NaN or infinity in {len(broken)} rows, the first is row {broken[0]}: "
            "the model or its training is broken, a score would hide it"
        )
