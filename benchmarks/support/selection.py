"""The figure of the cost of selecting tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fewer.report.svg import COLOURS, Drawing, canvas, drawing

__all__ = ["draw_selection"]

Row = Mapping[str, Any]
_COLOURS = {"keep_top": "method", "torch.topk": "packed", "torch.sort": "second"}
_STYLES = {("alone", 1): "-", ("alone", 32): "--", ("model", 1): ":"}
_NAMES = {("alone", 1): "alone", ("alone", 32): "alone, 32 texts", ("model", 1): "in the model"}


def draw_selection(rows: Sequence[Row]) -> Drawing | None:
    """Draw the time of each way over that of the threshold, alone and in the model, by length."""
    if not rows:
        return None
    told = []
    with canvas() as (figure, axes):
        figure.set_size_inches(6.4, 4.0)
        for place, style in _STYLES.items():
            points = sorted(
                (row for row in rows if (row["place"], row["batch"]) == place),
                key=lambda row: int(row["length"]),
            )
            lengths = [row["length"] for row in points]
            for way, colour in _COLOURS.items():
                ratios = [row["ratios"][way]["value"] for row in points]
                label = f"{way}, {_NAMES[place]}"
                axes.plot(lengths, ratios, style, marker=".", color=COLOURS[colour], label=label)
                numbers = ", ".join(
                    f"{ratio:.2f} at {length:,}"
                    for ratio, length in zip(ratios, lengths, strict=True)
                )
                told.append(f"{label} {numbers}")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_major_formatter("{x:,.0f}x")
        axes.axhline(1, color=COLOURS["quiet"], linewidth=1)
        axes.set_xlabel("tokens per text")
        axes.set_ylabel("time, threshold = 1")
        axes.legend(
            loc="upper left",
            ncols=3,
            fontsize=7,
            handlelength=3.5,
            frameon=False,
            labelcolor=COLOURS["ink"],
        )
        axes.set_ylim(0.7, axes.get_ylim()[1] * 8)
        return drawing(
            figure,
            title="Time to select tokens",
            alt=f"Time of each way to select tokens, divided by that of a threshold: "
            f"{'; '.join(told)}",
            note="Dotted: a whole forward pass that selects in this way.",
        )
