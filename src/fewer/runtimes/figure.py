"""Latency of one text by its length: fewer and the fastest peer of each precision."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from fewer.report.format import short
from fewer.report.svg import COLOURS, Drawing, canvas, drawing
from fewer.runtimes.lineup import OURS
from fewer.runtimes.tables import counted_times

if TYPE_CHECKING:
    from fewer.report.settings import Row

__all__ = ["draw_latency_by_length", "write_svg"]

# Line: colour, style, marker. Peers are dashed; the precisions of fewer share a colour.
_STYLES = {
    "fastest fp32 peer": ("padded", "--", "s"),
    "fastest bf16 peer": ("third", "--", "^"),
    "fastest int8 peer": ("fourth", "--", "v"),
    "packed-fp32": ("packed", ":", "o"),
    "packed-bf16": ("packed", "-", "o"),
    "packed-int8": ("packed", "-.", "o"),
    "method-fp32": ("method", ":", "D"),
    "method-bf16": ("method", "-", "D"),
    "method-int8": ("method", "-.", "D"),
}


def draw_latency_by_length(rows: Iterable[Row]) -> Drawing | None:
    """Draw rows of equal lengths at batch 1; `None` for fewer than two lengths."""
    curves = _collect_curves(rows)
    lengths = sorted({length for curve in curves.values() for length in curve})
    if len(lengths) < 2:
        return None
    with canvas() as (figure, axes):
        figure.set_size_inches(6.4, 4.2)
        for name, curve in curves.items():
            colour, style, marker = _STYLES[name]
            axes.plot(
                sorted(curve),
                [curve[length] for length in sorted(curve)],
                style,
                color=COLOURS[colour],
                marker=marker,
                markersize=4,
                linewidth=1.4,
                label=name,
            )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(lengths, [str(length) for length in lengths])
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("tokens in the text")
        axes.set_ylabel("milliseconds, batch 1")
        axes.legend(frameon=False, labelcolor=COLOURS["ink"], fontsize=8)
        descriptions = (
            f"{name} " + ", ".join(f"{length}: {short(curve[length])}" for length in sorted(curve))
            for name, curve in curves.items()
        )
        return drawing(
            figure,
            title="One text, by its length",
            alt=f"Milliseconds of one text by its length in tokens. {'; '.join(descriptions)}",
            note="Median; lower is faster.",
        )


def write_svg(drawing: Drawing, path: Path) -> None:
    """Write a figure as a standalone file, which pages show as an image.

    An image does not inherit a page's colours, so it has a background for dark pages.
    """
    attributes = 'xmlns="http://www.w3.org/2000/svg" style="background: #fff"'
    path.write_text(drawing.svg.replace("<svg ", f"<svg {attributes} ", 1) + "\n", encoding="utf-8")


def _collect_curves(rows: Iterable[Row]) -> dict[str, dict[int, float]]:
    """Collect milliseconds as `curves[line][length]`, in the order of the styles."""
    curves: dict[str, dict[int, float]] = {name: {} for name in _STYLES}
    for row in rows:
        profile, _, length = row["profile"].partition("-")
        if profile != "equal" or "1" not in row["best"]:
            continue
        peers = {f"fastest {kind} peer": name for kind, name in row["best"]["1"].items()}
        for line, name in [*peers.items(), *((name, name) for name in OURS)]:
            if line in curves and name in row["systems"]:
                curves[line][int(length)] = float(counted_times(row, name, "1")["median"])
    return {name: curve for name, curve in curves.items() if curve}
