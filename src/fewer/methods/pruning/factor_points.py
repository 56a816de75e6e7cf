"""Operating points that multiply what was fitted: 1 as it was fitted, 0 to prune nothing."""

from __future__ import annotations

from torch import Tensor

from fewer._validation.settings import validate
from fewer._validation.types import NonNegative
from fewer.core.operating_points import OperatingPoints, Point

__all__ = ["factor_points"]

FACTORS = (0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0)


def factor_points(factor: Tensor, path: tuple[float, ...] = FACTORS) -> OperatingPoints:
    """Return the operating points of the buffer that holds the factor."""
    return OperatingPoints((factor,), 0.0, path, _check)


def _check(factor: Point) -> None:
    validate(NonNegative, factor, "threshold")
