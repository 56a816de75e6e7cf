"""Bubbles: speed, score and memory of many systems in one figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewer.report.svg import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Bubble", "draw_bubbles"]

_LARGEST = 900.0  # square points: the area of the bubble of most memory
_COLOURS = ("packed", "method", "second", "third", "fourth", "padded")
_LETTER, _LINE = 5.0, 11.0  # points: about the width of a letter, the height of a line
# Where a name may stand, in points from the middle of its bubble: the first with room.
_PLACES = [(0, 0), (0, 16), (0, -16), (0, 26), (0, -26), (0, 36), (0, -36), (0, 46), (0, -46)]


@dataclass(frozen=True)
class Bubble:
    """What is measured of a system: accuracy in percent, 10^6 bytes."""

    name: str
    per_s: float
    score: float
    memory_mb: float


def draw_bubbles(figure: Figure, axes: Axes, found: Sequence[Bubble]) -> None:
    """Draw a bubble a system, its area its memory, and the names, each where there is room."""
    most = max(one.memory_mb for one in found)
    figure.set_size_inches(6.4, 4.4)
    for number, one in enumerate(found):
        axes.scatter(
            one.per_s,
            one.score,
            _LARGEST * one.memory_mb / most,
            color=COLOURS[_COLOURS[number % len(_COLOURS)]],
            alpha=0.45,
            zorder=3,
        )
    axes.margins(x=0.15, y=0.2)
    axes.set_xlim(left=0)
    axes.set_title(f"area: memory, at most {most:,.0f} MB", fontsize=8, color=COLOURS["quiet"])
    _name(figure, axes, found)


def _name(figure: Figure, axes: Axes, found: Sequence[Bubble]) -> None:
    """Write the names, each where it covers none of those before."""
    figure.draw_without_rendering()  # settles what a point of data is on paper
    points = 72 / figure.dpi
    taken: list[tuple[float, float, float]] = []  # middle x, y and width, in points
    for one in found:
        at = axes.transData.transform((one.per_s, one.score)) * points
        width = _LETTER * len(one.name)
        place = next(
            (
                (right, up)
                for right, up in _PLACES
                if all(
                    abs(at[0] + right - x) > (width + wide) / 2 or abs(at[1] + up - y) > _LINE
                    for x, y, wide in taken
                )
            ),
            _PLACES[0],
        )
        taken.append((at[0] + place[0], at[1] + place[1], width))
        axes.annotate(
            one.name,
            (one.per_s, one.score),
            place,
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
            color=COLOURS["ink"],
            zorder=4,
        )
