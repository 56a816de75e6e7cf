"""A threshold on the probability of keeping a token, of methods that predict one."""

from __future__ import annotations

from torch import Tensor

from fewer._validation.settings import validate
from fewer._validation.types import Proportion
from fewer.core.learning import CalibrationData, warn_if_missed
from fewer.core.operating_points import OperatingPoints, Point

__all__ = ["GRID", "fit_threshold", "keep_points"]

GRID = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_ODDS = 1e6  # of the highest threshold that is tried; of the lowest 1 / _ODDS


def keep_points(threshold: Tensor) -> OperatingPoints:
    """Return the operating points of a threshold; 0 keeps every token."""
    return OperatingPoints((threshold,), 0.0, GRID, _check)


def fit_threshold(threshold: Tensor, data: CalibrationData, target: float, method: str) -> None:
    """Bisect a threshold until the FLOPs ratio is the target, +-0.002; warn where it is missed.

    Its odds are bisected, which have room near 0 and near 1.
    """

    def set_odds(odds: float) -> None:
        threshold.fill_(odds / (1.0 + odds))

    gap = data.bisect(target, set_odds, 1 / _ODDS, _ODDS, 1.0)
    warn_if_missed(
        method,
        target,
        gap,
        "the networks cost something, the protected tokens always stay, and tokens of equal "
        "probability are pruned together",
    )


def _check(value: Point) -> None:
    validate(Proportion, value, "threshold")
