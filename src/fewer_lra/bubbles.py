"""Figure 3 of the paper: speed, score and memory of each attention."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from fewer.report.scatter import Bubble, draw_bubbles
from fewer.report.svg import COLOURS, Drawing, canvas, drawing
from fewer.runtimes.figure import write_svg
from fewer_lra.tables import Group

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["collect_bubbles", "draw_figure", "write_figure"]


def collect_bubbles(group: Group, timed: str) -> list[Bubble]:
    """Collect the attentions that ran on all tasks; speed and memory are of training on `timed`.

    Raises `ValueError` for a task without rows, and if no attention ran on all tasks.
    """
    if timed not in group.tasks:
        raise ValueError(f"timed must be one of {', '.join(group.tasks)}; got {timed!r}.")
    clock, bubbles = group.clock[0], []
    for attention in group.attentions:
        if (score := group.average(attention)) is None:
            continue
        rows = group.of(attention, timed)
        speed = mean(row["speed"]["train"][clock] for row in rows)
        memory = mean(row["peak_memory_mb"] for row in rows)
        bubbles.append(Bubble(attention, speed, score, memory))
    if not bubbles:
        raise ValueError(
            f"rows must have an attention that ran on all of {', '.join(group.tasks)}; got none. "
            "Run the missing tasks."
        )
    return bubbles


def draw_figure(group: Group, timed: str) -> Drawing:
    """Draw the bubbles for a page."""
    with canvas() as (figure, axes):
        bubbles = _draw(figure, axes, group, timed)
        values = (
            f"{bubble.name} {bubble.score:.1f} %, {bubble.per_s:.0f} per second, "
            f"{bubble.memory_mb:.0f} MB"
            for bubble in bubbles
        )
        return drawing(
            figure,
            title=group.title,
            alt=f"{group.title}: accuracy, examples in training, memory. {'; '.join(values)}",
            note="Further right is faster, higher is better, smaller takes less memory.",
        )


def write_figure(group: Group, timed: str, path: Path) -> None:
    """Draw the bubbles into a file, .svg or .png. Raises `ValueError` for any other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".svg":
        write_svg(draw_figure(group, timed), path)
    elif path.suffix == ".png":
        with canvas() as (figure, axes):
            _draw(figure, axes, group, timed)
            figure.savefig(path, dpi=200)
    else:
        raise ValueError(f"output must end in .svg or .png; got {path}.")


def _draw(figure: Figure, axes: Axes, group: Group, timed: str) -> list[Bubble]:
    bubbles = collect_bubbles(group, timed)
    draw_bubbles(figure, axes, bubbles)
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
    length = group.of(bubbles[0].name, timed)[0]["speed"]["length"]
    axes.set_xlabel(f"examples per {group.clock[1]}, training on {timed} of length {length}")
    axes.set_ylabel(f"accuracy, mean of {', '.join(group.tasks)} (%)")
    return bubbles
