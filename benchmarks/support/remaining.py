"""The figure of tokens that remain in each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fewer.report.operating_points import data_set
from fewer.report.svg import COLOURS, Drawing, canvas, drawing

__all__ = ["draw_remaining"]

Row = Mapping[str, Any]
_COLOURS = ("packed", "method", "second", "third", "fourth", "padded")


def draw_remaining(rows: Sequence[Row]) -> Drawing | None:
    """Draw mean and quartiles of the share of tokens that each layer computes, by model."""
    if not rows:
        return None
    told = []
    with canvas() as (figure, axes):
        figure.set_size_inches(6.4, 4.0)
        for number, row in enumerate(rows):
            colour = COLOURS[_COLOURS[number % len(_COLOURS)]]
            entries = row["layers"]
            shift = 0.08 * (number - (len(rows) - 1) / 2)  # so that quartiles lie side by side
            places = [entry["layer"] + 1 + shift for entry in entries]
            means = [entry["mean"]["value"] for entry in entries]
            name = f"{row['method']['name']}, {data_set(dict(row))}"
            axes.plot(places, means, marker="o", markersize=3, color=colour, label=name)
            quartiles = [entry["quartiles"] for entry in entries]
            axes.vlines(
                places, [q[0] for q in quartiles], [q[2] for q in quartiles], color=colour, lw=3,
                alpha=0.4,
            )  # fmt: skip
            told.append(f"{name} {', '.join(f'{mean:.1%}' for mean in means)}")
        axes.set_ylim(0, 1.05)
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axes.set_xlabel("layer")
        axes.set_ylabel("tokens that it computes")
        axes.legend(loc="lower left", frameon=False, labelcolor=COLOURS["ink"], fontsize=8)
        return drawing(
            figure,
            title="Tokens that remain",
            alt=f"Mean share of the tokens of a text that each layer computes: {'; '.join(told)}",
            note="Bars reach from the first to the third quartile of the texts.",
        )
