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
    """Measurements of a system: accuracy in percent, memory in 10^6 bytes."""

    name: str
    per_s: float
    score: float
    memory_mb: float


def draw_bubbles(figure: Figure, axes: Axes, bubbles: Sequence[Bubble]) -> None:
    """Draw one bubble per system, its area its memory, and the names where there is room."""
    largest = max(bubble.memory_mb for bubble in bubbles)
    figure.set_size_inches(6.4, 4.4)
    for number, bubble in enumerate(bubbles):
        axes.scatter(
            bubble.per_s,
            bubble.score,
            _LARGEST * bubble.memory_mb / largest,
            color=COLOURS[_COLOURS[number % len(_COLOURS)]],
            alpha=0.45,
            zorder=3,
        )
    axes.margins(x=0.15, y=0.2)
    axes.set_xlim(left=0)
    axes.set_title(f"area: memory, at most {largest:,.0f} MB", fontsize=8, color=COLOURS["quiet"])
    _write_names(figure, axes, bubbles)


def _write_names(figure: Figure, axes: Axes, bubbles: Sequence[Bubble]) -> None:
    """Write the names, each where it covers none of those before."""
    figure.draw_without_rendering()  # settles what a point of data is on paper
    points = 72 / figure.dpi
    labels: list[tuple[float, float, float]] = []  # middle x, y and width, in points
    for bubble in bubbles:
        center = axes.transData.transform((bubble.per_s, bubble.score)) * points
        width = _LETTER * len(bubble.name)
        offset = next(
            (
                (right, up)
                for right, up in _PLACES
                if all(
                    abs(center[0] + right - x) > (width + label_width) / 2
                    or abs(center[1] + up - y) > _LINE
                    for x, y, label_width in labels
                )
            ),
            _PLACES[0],
        )
        labels.append((center[0] + offset[0], center[1] + offset[1], width))
        axes.annotate(
            bubble.name,
            (bubble.per_s, bubble.score),
            offset,
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
            color=COLOURS["ink"],
            zorder=4,
        )
