"""The operating point of a trained model that keeps a share of the FLOPs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from fewer.core.operating_points import OperatingPoints, Point

__all__ = ["choose_point", "read_point", "write_point"]

BISECTIONS = 6  # between two neighbours of the path


def choose_point(
    points: OperatingPoints, target: float, measure: Callable[[], float]
) -> tuple[Point, float]:
    """Set the operating point whose share of FLOPs is nearest the target; return both.

    `measure` returns the share at the point that is set. It falls along the path, from strict to
    eager; between the two neighbours of the target numbers are bisected, where the method has
    numbers between them.
    """
    path = (points.never, *points.path)
    shares: dict[int, float] = {}

    def share_at(number: int) -> float:
        if number not in shares:
            points.turn_to(path[number])
            shares[number] = measure()
        return shares[number]

    low, high = 0, len(path) - 1  # share_at(low) is above the target, as far as is known
    while high - low > 1:
        middle = (low + high) // 2
        if share_at(middle) > target:
            low = middle
        else:
            high = middle
    tried = [(path[number], share_at(number)) for number in sorted({low, high})]
    tried += _bisect(points, tried, target, measure)
    point, share = min(tried, key=lambda entry: abs(entry[1] - target))
    points.turn_to(point)
    return point, share


def write_point(point: Point | None) -> Any:
    """Return a point as JSON holds it, which has no infinite numbers: "inf" for those."""
    if isinstance(point, tuple):
        return [write_point(number) for number in point]
    return str(point) if point is not None and math.isinf(point) else point


def read_point(written: Any) -> Any:
    """Return the point that `write_point` wrote."""
    if isinstance(written, list):
        return tuple(map(read_point, written))
    return float(written) if isinstance(written, str) else written


def _bisect(
    points: OperatingPoints,
    ends: list[tuple[Point, float]],
    target: float,
    measure: Callable[[], float],
) -> list[tuple[Point, float]]:
    """Measure numbers between two ends of which one keeps more than the target, one less."""
    if len(ends) < 2 or not ends[1][1] <= target <= ends[0][1]:
        return []
    (strict, _), (eager, _) = ends
    tried: list[tuple[Point, float]] = []
    for _ in range(BISECTIONS):
        if isinstance(strict, tuple) or isinstance(eager, tuple):
            break
        middle = (strict + eager) / 2
        try:
            points.set(middle)
        except ValueError:  # the setting has no such value, such as half a layer
            break
        share = measure()
        tried.append((middle, share))
        if share > target:
            strict = middle
        else:
            eager = middle
    return tried
