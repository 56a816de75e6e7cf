"""The figures of a comparison: score against FLOPs and against measured time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fewer.compare.settings import DENSE, START
from fewer.compare.table import Entry, entries
from fewer.report.svg import COLOURS, Drawing, canvas, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_flops", "draw_times", "pareto_front"]

_COLOURS = ("method", "packed", "second", "third", "fourth", "padded")
_MARKERS = "osD^vPX*<>hp"
Point = tuple[float, float]


def draw_flops(row: Mapping[str, Any]) -> Drawing:
    """Draw score against the share of the dense FLOPs."""
    measured = entries(row)
    points = {id(entry): entry.share for entry in measured}
    return _draw(row, measured, points, "share of the dense FLOPs")


def draw_times(row: Mapping[str, Any]) -> Drawing | None:
    """Draw score against the time of the largest batch, dense = 1; `None` if nothing was timed."""
    measured = [entry for entry in entries(row) if entry.speedups or entry.arm == DENSE]
    if len(measured) < 2:
        return None
    size = list(measured[-1].speedups)[-1]
    points = {id(entry): 1 / entry.speedups.get(size, 1.0) for entry in measured}
    return _draw(row, measured, points, f"time of a batch of {size}, dense model packed = 1")


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Return the points (cost, score) that no other beats in both, the cheapest first."""
    front: list[Point] = []
    for cost, score in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or score > front[-1][1]:
            front.append((cost, score))
    return front


def _draw(
    row: Mapping[str, Any], measured: Sequence[Entry], costs: Mapping[int, float], quantity: str
) -> Drawing:
    metric = measured[0].metric
    by_arm: dict[str, list[Entry]] = {}
    for entry in measured:
        by_arm.setdefault(entry.arm, []).append(entry)
    with canvas() as (figure, axes):
        figure.set_size_inches(7.0, 4.6)
        for number, (arm, line) in enumerate(by_arm.items()):
            _draw_arm(axes, number, arm, line, costs)
        front = pareto_front([(costs[id(entry)], entry.score) for entry in measured])
        axes.plot(*zip(*front, strict=True), color=COLOURS["rule"], linewidth=5, zorder=1)
        axes.set_xlabel(quantity)
        axes.set_ylabel(metric)
        axes.margins(x=0.1, y=0.12)
        figure.legend(loc="outside right upper", frameon=False, fontsize=8)
        title = f"{metric} against {quantity}"
        alt = f"{title}: " + "; ".join(
            f"{entry.arm} {costs[id(entry)]:.2f}, {entry.score:.4f}" for entry in measured
        )
        note = (
            "The wide line joins the arms that no other beats in both; bars are one standard "
            "deviation over seeds."
        )
        return drawing(figure, title=title, alt=alt, note=note)


def _draw_arm(
    axes: Axes, number: int, arm: str, line: Sequence[Entry], costs: Mapping[int, float]
) -> None:
    is_dense = arm in (START, DENSE)
    axes.errorbar(
        [costs[id(entry)] for entry in line],
        [entry.score for entry in line],
        yerr=None if line[0].spread is None else [entry.spread or 0.0 for entry in line],
        label=arm,
        marker=_MARKERS[number % len(_MARKERS)],
        markersize=5,
        linewidth=1.2,
        capsize=2,
        color=COLOURS["ink" if is_dense else _COLOURS[number % len(_COLOURS)]],
        zorder=3,
    )
