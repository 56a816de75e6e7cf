"""The figures of a sweep: score against FLOPs by threshold, and the layers at which texts leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fewer.report.html import visible
from fewer.report.operating_points import data_set, points, score_name, threshold_name
from fewer.report.svg import (
    COLOURS,
    Drawing,
    Label,
    brief,
    canvas,
    drawing,
    label_points,
    spare_room,
)

if TYPE_CHECKING:
    from fewer.report.operating_points import Point
    from fewer.report.settings import Row

__all__ = ["drawings", "exit_layers", "score_against_flops"]

_SHOWN = 4  # thresholds in the histogram
_FULL = 0.8  # height of a bar of all texts, where thresholds are 1 apart
_TOLD = 0.05  # from this share on a bar has its number


def drawings(row: Row) -> list[Drawing]:
    """Draw the sweep of a row, if it has one."""
    if not row.get("sweep"):
        return []
    drawn = [score_against_flops(row), exit_layers(row)]
    return [one for one in drawn if one is not None]


def score_against_flops(row: Row) -> Drawing:
    """Draw a dot for each threshold, and a line at the score of the dense model."""
    metric = score_name(row)
    dense = float(row["systems"]["packed"]["metrics"][metric])
    dots = {
        threshold_name(point["threshold"]): (_share(point), float(point["metrics"][metric]))
        for point in points(row)
    }
    with canvas() as (figure, axes):
        axes.axhline(dense, color=COLOURS["packed"], linestyle="--", linewidth=1.2)
        across, up = zip(*dots.values(), strict=True)
        axes.plot(
            across, up, color=COLOURS["method"], marker="D", markersize=4, linewidth=1.2, zorder=3
        )
        axes.set_xlabel("FLOPs per text, as a share of the dense model's")
        axes.set_ylabel(brief(visible(metric)))
        spare_room(axes, [dense, *up])
        method = COLOURS["method"]
        labels = [Label(name, dot, method) for name, dot in dots.items()]
        label_points(axes, labels, all_shown=False)
        axes.annotate(
            "packed",
            (0, dense),
            (4, 3),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            color=COLOURS["packed"],
        )
        told = (f"{name}: {share:.3f}, {value:.4f}" for name, (share, value) in dots.items())
        return drawing(
            figure,
            title=f"{metric} by threshold",
            alt=(
                f"Share of the dense model's FLOPs and {visible(metric)} at each threshold. "
                f"{'; '.join(told)}. The dense model, packed: {dense:.4f}. {_whose(row)}"
            ),
            note=f"{_whose(row)}; further left costs less. FLOPs with those of the exits' heads.",
        )


def exit_layers(row: Row) -> Drawing | None:
    """Draw how many texts leave after each layer at a few thresholds; `None` if only for never."""
    shown = _spread([point for point in points(row) if point["threshold"] is not None])
    if not shown:
        return None
    layers = range(1, len(shown[0]["exits"]) + 1)
    names = [threshold_name(point["threshold"]) for point in shown]
    shares = [[count / sum(point["exits"]) for count in point["exits"]] for point in shown]
    with canvas() as (figure, axes):
        for place, share in enumerate(shares):
            floor = len(shown) - 1 - place  # the strictest on top
            bars = axes.bar(
                layers, [_FULL * one for one in share], 0.8, bottom=floor, color=COLOURS["method"]
            )
            written = [f"{one:.0%}" if one >= _TOLD else "" for one in share]
            axes.bar_label(bars, written, padding=1, fontsize=7, color=COLOURS["ink"])
        axes.set_yticks(range(len(shown)), names[::-1])
        axes.set_ylim(0, len(shown))
        axes.set_xticks(layers)
        axes.set_xlabel("layer after which texts leave")
        axes.set_ylabel("threshold")
        told = (
            f"{name}: {' '.join(f'{one:.1%}' for one in share)}"
            for name, share in zip(names, shares, strict=True)
        )
        return drawing(
            figure,
            title="Where texts leave",
            alt=(
                "Share of the texts that leave after each layer, first to last. "
                f"{'; '.join(told)}. {_whose(row)}"
            ),
            note=f"{_whose(row)}; in percent of all texts, at a few thresholds.",
        )


def _whose(row: Row) -> str:
    return visible(f"Of {row.get('model')} on {data_set(row)}")


def _share(point: Point) -> float:
    return float(point["flops_per_text"] / point["dense_flops_per_text"])


def _spread(found: Sequence[Point]) -> list[Point]:
    """Choose a few points, as evenly spread over the mean layers read as they come."""
    if len(found) <= _SHOWN:
        return list(found)
    read = [point["layers_read"] for point in found]
    step = (max(read) - min(read)) / (_SHOWN - 1)
    wanted = [max(read) - step * number for number in range(_SHOWN)]
    chosen = {min(range(len(read)), key=lambda n: abs(read[n] - one)) for one in wanted}
    return [found[number] for number in sorted(chosen)]
