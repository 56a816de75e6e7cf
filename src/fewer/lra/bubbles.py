"""The arena at a glance, as in Figure 3 of its paper: speed, score and memory of each attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from fewer.lra.tables import Group
from fewer.measure.svg import COLOURS, Drawing, canvas, drawing
from fewer.measure.yardstick_figure import write_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Bubble", "bubbles", "figure_of", "write_figure"]

_LARGEST = 900.0  # square points: the area of the bubble of most memory
_COLOURS = ("packed", "method", "second", "third", "fourth", "padded")
_LETTER, _LINE = 5.0, 11.0  # points: about the width of a letter, the height of a line
# Where a name may stand, in points from the middle of its bubble: the first with room.
_PLACES = [(0, 0), (0, 16), (0, -16), (0, 26), (0, -26), (0, 36), (0, -36), (0, 46), (0, -46)]


@dataclass(frozen=True)
class Bubble:
    """What is measured of an attention: accuracy in percent, 10^6 bytes."""

    attention: str
    examples_per_s: float
    score: float
    memory_mb: float


def bubbles(group: Group, timed: str) -> list[Bubble]:
    """Collect the attentions that ran on all tasks; speed and memory are of training on `timed`.

    Raises `ValueError` for a task that did not run, or where no attention ran on all.
    """
    if timed not in group.tasks:
        raise ValueError(f"no rows of {timed!r}; there are {', '.join(group.tasks)}")
    found = []
    for attention in group.attentions:
        if (score := group.average(attention)) is None:
            continue
        rows = group.of(attention, timed)
        speed = mean(row["speed"]["train"][_clock(group)] for row in rows)
        memory = mean(row["peak_memory_mb"] for row in rows)
        found.append(Bubble(attention, speed, score, memory))
    if not found:
        raise ValueError(f"no attention ran on all of {', '.join(group.tasks)}")
    return found


def figure_of(group: Group, timed: str) -> Drawing:
    """Draw the bubbles for a page."""
    with canvas() as (figure, axes):
        found = _draw(figure, axes, group, timed)
        told = (
            f"{one.attention} {one.score:.1f} %, {one.examples_per_s:.0f} a second, "
            f"{one.memory_mb:.0f} MB"
            for one in found
        )
        return drawing(
            figure,
            title=group.title,
            alt=f"{group.title}: accuracy, examples in training, memory. {'; '.join(told)}",
            note="Further right is faster, higher is better, smaller takes less memory.",
        )


def write_figure(group: Group, timed: str, path: Path) -> None:
    """Draw the bubbles into a file, .svg or .png. Raises `ValueError` for any other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".svg":
        write_svg(figure_of(group, timed), path)
    elif path.suffix == ".png":
        with canvas() as (figure, axes):
            _draw(figure, axes, group, timed)
            figure.savefig(path, dpi=200)
    else:
        raise ValueError(f"{path}: figures are .svg or .png")


def _clock(group: Group) -> str:
    return "examples_per_cpu_s" if group.is_alone else "examples_per_s"


def _draw(figure: Figure, axes: Axes, group: Group, timed: str) -> list[Bubble]:
    found = bubbles(group, timed)
    most = max(one.memory_mb for one in found)
    figure.set_size_inches(6.4, 4.4)
    for number, one in enumerate(found):
        axes.scatter(
            one.examples_per_s,
            one.score,
            _LARGEST * one.memory_mb / most,
            color=COLOURS[_COLOURS[number % len(_COLOURS)]],
            alpha=0.45,
            zorder=3,
        )
    majority = mean(map(group.majority, group.tasks))
    axes.axhline(majority, color=COLOURS["quiet"], linestyle="--", linewidth=1)
    axes.annotate(
        f"majority {majority:.1f}",
        (1, majority),
        (0, 2),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        color=COLOURS["quiet"],
    )
    axes.margins(x=0.15, y=0.2)
    axes.set_xlim(left=0)
    second = "second of the processor" if group.is_alone else "second"
    length = group.of(found[0].attention, timed)[0]["speed"]["length"]
    axes.set_xlabel(f"examples per {second}, training on {timed} of length {length}")
    axes.set_ylabel(f"accuracy, mean of {', '.join(group.tasks)} (%)")
    axes.set_title(f"area: memory, at most {most:,.0f} MB", fontsize=8, color=COLOURS["quiet"])
    _name(figure, axes, found)
    return found


def _name(figure: Figure, axes: Axes, found: Sequence[Bubble]) -> None:
    """Write the names, each where it covers none of those before."""
    figure.draw_without_rendering()  # settles what a point of data is on paper
    points = 72 / figure.dpi
    taken: list[tuple[float, float, float]] = []  # middle x, y and width, in points
    for one in found:
        at = axes.transData.transform((one.examples_per_s, one.score)) * points
        width = _LETTER * len(one.attention)
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
            one.attention,
            (one.examples_per_s, one.score),
            place,
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
            color=COLOURS["ink"],
            zorder=4,
        )
