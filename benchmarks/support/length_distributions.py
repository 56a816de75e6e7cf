"""The figure of token lengths: quartiles of each data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fewer.report.svg import COLOURS, Drawing, canvas, drawing

__all__ = ["draw_lengths", "evaluation_files"]

Row = Mapping[str, Any]
POSITIONS = 512  # of BERT


def evaluation_files(rows: Sequence[Row]) -> dict[str, Row]:
    """Return the row of one file of each data set: for tests, else not for training, else any."""
    chosen: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: (_RANKS.get(row["split"], 1), row["name"])):
        chosen.setdefault(row["name"].split()[0], row)
    return {row["name"]: row for row in chosen.values()}


_RANKS = {"test": 0, "train": 2}


def draw_lengths(rows: Sequence[Row]) -> Drawing | None:
    """Draw the quartiles of one file of each data set."""
    shown = sorted(
        evaluation_files(rows).values(), key=lambda row: (row["tokens"]["median"], row["name"])
    )
    if not shown:
        return None
    with canvas() as (figure, axes):
        figure.set_size_inches(6.4, 0.6 + 0.19 * len(shown))
        for place, row in enumerate(shown):
            tokens = row["tokens"]
            axes.plot([tokens["p5"], tokens["p95"]], [place] * 2, color=COLOURS["quiet"], lw=1)
            width = tokens["q3"] - tokens["q1"]
            axes.barh(place, width, 0.6, tokens["q1"], color=COLOURS["packed"])
            axes.plot(tokens["median"], place, "|", color="white", markersize=8)
        axes.set_xscale("log", base=2)
        axes.axvline(POSITIONS, color=COLOURS["method"], linewidth=1)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_yticks(range(len(shown)), [row["name"] for row in shown])
        axes.grid(False)
        axes.set_xlabel("tokens")
        alt = "; ".join(
            f"{row['name']} {row['tokens']['q1']:.0f}, {row['tokens']['median']:.0f}, "
            f"{row['tokens']['q3']:.0f}"
            for row in shown
        )
        return drawing(
            figure,
            title="Token lengths of the data sets",
            alt=f"First quartile, median and third quartile of the tokens per text: {alt}",
            note="Bars are quartiles, lines reach from the 5th to the 95th percentile.",
        )
