"""Figures of a sweep: score against FLOPs by threshold, and the layers after which texts exit."""

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

_MAX_THRESHOLDS = 4  # in the histogram
_BAR_HEIGHT = 0.8  # of all texts, where thresholds are 1 apart
_MIN_LABELLED = 0.05  # smallest share with a number on its bar


def drawings(row: Row) -> list[Drawing]:
    """Draw the sweep of a row; empty for a row without a sweep."""
    if not row.get("sweep"):
        return []
    figures = [score_against_flops(row), exit_layers(row)]
    return [figure for figure in figures if figure is not None]


def score_against_flops(row: Row) -> Drawing:
    """Draw a point per threshold, and a line at the score of the dense model."""
    metric = score_name(row)
    dense = float(row["systems"]["packed"]["metrics"][metric])
    coordinates = {
        threshold_name(point["threshold"]): (_flops_ratio(point), float(point["metrics"][metric]))
        for point in points(row)
    }
    with canvas() as (figure, axes):
        axes.axhline(dense, color=COLOURS["packed"], linestyle="--", linewidth=1.2)
        across, up = zip(*coordinates.values(), strict=True)
        axes.plot(
            across, up, color=COLOURS["method"], marker="D", markersize=4, linewidth=1.2, zorder=3
        )
        axes.set_xlabel("FLOPs per text, as a share of the dense model's")
        axes.set_ylabel(brief(visible(metric)))
        spare_room(axes, [dense, *up])
        method = COLOURS["method"]
        labels = [Label(name, point, method) for name, point in coordinates.items()]
        label_points(axes, labels, all_shown=False)
        axes.annotate(
            "packed",
            (0, dense),
            (4, 3),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            color=COLOURS["packed"],
        )
        descriptions = (
            f"{name}: {ratio:.3f}, {value:.4f}" for name, (ratio, value) in coordinates.items()
        )
        return drawing(
            figure,
            title=f"{metric} by threshold",
            alt=(
                f"Share of the dense model's FLOPs and {visible(metric)} at each threshold. "
                f"{'; '.join(descriptions)}. The dense model, packed: {dense:.4f}. "
                f"{_describe_source(row)}"
            ),
            note=(
                f"{_describe_source(row)}; further left costs less. FLOPs include the exit heads."
            ),
        )


def exit_layers(row: Row) -> Drawing | None:
    """Draw the share of texts that exit after each layer; `None` for a sweep without thresholds."""
    selected = _select_points([point for point in points(row) if point["threshold"] is not None])
    if not selected:
        return None
    layers = range(1, len(selected[0]["exits"]) + 1)
    names = [threshold_name(point["threshold"]) for point in selected]
    shares = [[count / sum(point["exits"]) for count in point["exits"]] for point in selected]
    with canvas() as (figure, axes):
        for index, exited in enumerate(shares):
            bottom = len(selected) - 1 - index  # the strictest on top
            heights = [_BAR_HEIGHT * share for share in exited]
            bars = axes.bar(layers, heights, 0.8, bottom=bottom, color=COLOURS["method"])
            labels = [f"{share:.0%}" if share >= _MIN_LABELLED else "" for share in exited]
            axes.bar_label(bars, labels, padding=1, fontsize=7, color=COLOURS["ink"])
        axes.set_yticks(range(len(selected)), names[::-1])
        axes.set_ylim(0, len(selected))
        axes.set_xticks(layers)
        axes.set_xlabel("layer after which texts exit")
        axes.set_ylabel("threshold")
        descriptions = (
            f"{name}: {' '.join(f'{share:.1%}' for share in exited)}"
            for name, exited in zip(names, shares, strict=True)
        )
        return drawing(
            figure,
            title="Where texts exit",
            alt=(
                "Share of the texts that exit after each layer, first to last. "
                f"{'; '.join(descriptions)}. {_describe_source(row)}"
            ),
            note=f"{_describe_source(row)}; in percent of all texts, at a few thresholds.",
        )


def _describe_source(row: Row) -> str:
    return visible(f"Of {row.get('model')} on {data_set(row)}")


def _flops_ratio(point: Point) -> float:
    return float(point["flops_per_text"] / point["dense_flops_per_text"])


def _select_points(sweep: Sequence[Point]) -> list[Point]:
    """Select a few points, spread as evenly as possible over the mean layers read."""
    if len(sweep) <= _MAX_THRESHOLDS:
        return list(sweep)
    depths = [point["layers_read"] for point in sweep]
    step = (max(depths) - min(depths)) / (_MAX_THRESHOLDS - 1)
    targets = [max(depths) - step * number for number in range(_MAX_THRESHOLDS)]
    indices = {min(range(len(depths)), key=lambda n: abs(depths[n] - target)) for target in targets}
    return [sweep[index] for index in sorted(indices)]
