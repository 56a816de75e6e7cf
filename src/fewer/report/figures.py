"""Figures of a report: metric against FLOPs, tokens by layer, lengths of texts, latency."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from fewer.report.format import column_names, short
from fewer.report.html import visible
from fewer.report.settings import SYSTEMS, Block, Row
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
    from matplotlib.axes import Axes

__all__ = ["Drawing", "latency", "length_histogram", "metric_against_flops", "tokens_per_layer"]

_METHOD_COLOURS = ("method", "second", "third", "fourth")
_MARKERS = {"padded": "s", "packed": "o", "method": "D", "second": "^", "third": "v", "fourth": "P"}

Point = tuple[float, float]


def metric_against_flops(blocks: Sequence[Block], metric: str) -> Drawing | None:
    """Draw a metric against MFLOPs per text; `None` where no block has both.

    Runs are small points, their means large ones; a line joins the settings of a method.
    """
    points = {
        (block.number, name): (system.flops / 1e6, system.metrics[metric].value)
        for block in blocks
        for name, system in block.systems.items()
        if system.flops is not None and metric in system.metrics
    }
    if not points:
        return None
    colours = _colours(blocks)
    with canvas() as (figure, axes):
        for curve in _curves(blocks):
            path = sorted(
                points[key] for block in curve if (key := (block.number, "method")) in points
            )
            if len(path) > 1:
                colour = COLOURS[colours[curve[0].number, "method"]]
                axes.plot(*zip(*path, strict=True), color=colour, linewidth=1.2)
        for block in blocks:
            for name in block.systems if len(block.rows) > 1 else ():
                for flops, value in _runs(block, name, metric):
                    _point(axes, (flops, value), colours[block.number, name], size=7, alpha=0.5)
        for key, point in points.items():
            _point(axes, point, colours[key], size=36)
        axes.set_xlabel("MFLOPs per text (multiply-add = 2)")
        axes.set_ylabel(brief(visible(metric)))
        spare_room(axes, [value for _, value in points.values()])
        labels = _labels(blocks)
        label_points(
            axes,
            [
                Label(labels[key], point, COLOURS[colours[key]])
                for key, point in points.items()
                if labels[key]
            ],
        )
        _legend(axes, blocks, colours)
        descriptions = (
            f"{_describe_key(blocks, key)} {short(x)} MFLOPs, {y:.4f}"
            for key, (x, y) in points.items()
        )
        return drawing(
            figure,
            title=f"{metric} against FLOPs",
            alt=f"{visible(metric)} against FLOPs per text: {'; '.join(descriptions)}",
            note="Further left costs less, higher is better.",
        )


def tokens_per_layer(blocks: Sequence[Block]) -> Drawing | None:
    """Draw the tokens per text that each layer reads, equal lines once; `None` if not counted."""
    from matplotlib.ticker import MaxNLocator

    curves = {
        (block.number, name): system.tokens
        for block in blocks
        for name, system in block.systems.items()
        if system.tokens
    }
    if not curves:
        return None
    colours, labels, seen = _colours(blocks), _labels(blocks), set()
    ends: list[tuple[Point, str, str]] = []
    with canvas() as (figure, axes):
        for key, tokens in curves.items():
            if (colours[key], tokens) in seen:
                continue
            seen.add((colours[key], tokens))
            layers = range(1, len(tokens) + 1)
            colour = COLOURS[colours[key]]
            style = "--" if key[1] == "padded" else "-"
            marker = _MARKERS[colours[key]]
            axes.plot(
                layers, tokens, style, color=colour, marker=marker, markersize=4, linewidth=1.5
            )
            ends.append(((float(len(tokens)), tokens[-1]), labels[key], colour))
        axes.set_xlabel("layer")
        axes.set_ylabel("tokens read per text (mean)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(0, max(map(max, curves.values())) * 1.12)
        _label_ends(axes, ends)
        _legend(axes, blocks, colours)
        descriptions = "; ".join(
            f"{_describe_key(blocks, key)} {' '.join(map(short, tokens))}"
            for key, tokens in curves.items()
        )
        return drawing(
            figure,
            title="Tokens kept, layer by layer",
            alt=f"Mean tokens of a text that each layer reads, first to last: {descriptions}",
            note="Tokens that pass through the feed-forward network of each layer.",
        )


def length_histogram(row: Row) -> Drawing:
    """Draw the lengths of a row's texts. Raises `ValueError` if edges and counts do not fit."""
    edges, counts = row["lengths"]["edges"], row["lengths"]["counts"]
    if len(edges) != len(counts) + 1:
        raise ValueError(
            f"lengths must hold one edge more than counts; got {len(edges)} edges and "
            f"{len(counts)} counts."
        )
    limit = row.get("max_length")
    with canvas() as (figure, axes):
        widths = [high - low for low, high in pairwise(edges)]
        axes.bar(
            edges[:-1],
            counts,
            [0.92 * width for width in widths],
            align="edge",
            color=COLOURS["packed"],
        )
        if limit is not None and edges[0] < limit <= edges[-1]:
            axes.axvline(limit, color=COLOURS["ink"], linestyle="--", linewidth=1)
            axes.annotate(
                f"longest read: {limit}",
                (limit, 1),
                (-4, 3),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="right",
                color=COLOURS["ink"],
            )
        axes.set_xlabel("tokens in a text")
        axes.set_ylabel("texts")
        descriptions = (
            f"{low} to {high}: {count}"
            for (low, high), count in zip(pairwise(edges), counts, strict=True)
        )
        source = row.get("data", {}).get("source", "the data")
        return drawing(
            figure,
            title="How long the texts are",
            alt=f"Texts by length in tokens. {'; '.join(descriptions)}",
            note=f"{sum(counts):,} texts of {source}.",
        )


def latency(block: Block) -> Drawing | None:
    """Draw milliseconds per text by batch size, with p5 and p95; `None` if not timed."""
    systems = {name: block.systems[name] for name in SYSTEMS if name in block.systems}
    timed = {name: system.latency for name, system in systems.items() if system.latency}
    if not timed:
        return None
    sizes = sorted({size for times in timed.values() for size in times})
    names, colours = _names([block]), _colours([block])
    descriptions = []
    with canvas() as (figure, axes):
        width = 0.8 / len(timed)
        for index, (name, times) in enumerate(timed.items()):
            shift = (index - (len(timed) - 1) / 2) * width
            spans = [
                (time.p5 / size, time.median / size, time.p95 / size)
                for size, time in times.items()
            ]
            axes.bar(
                [sizes.index(size) + shift for size in times],
                [median for _, median, _ in spans],
                0.9 * width,
                yerr=[
                    [max(median - low, 0.0) for low, median, _ in spans],
                    [max(high - median, 0.0) for _, median, high in spans],
                ],
                color=COLOURS[colours[block.number, name]],
                error_kw={"ecolor": COLOURS["ink"], "elinewidth": 1, "capsize": 2},
                label=names[name],
            )
            descriptions += [
                f"{names[name]} at batch {size} {short(median)} ({short(low)}-{short(high)})"
                for size, (low, median, high) in zip(times, spans, strict=True)
            ]
        axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
        axes.set_xlabel("texts in a batch")
        axes.set_ylabel("milliseconds per text")
        _place_legend(axes, *axes.get_legend_handles_labels())
        return drawing(
            figure,
            title="Time for a text, by batch size",
            alt=f"Milliseconds per text, median and p5-p95: {'; '.join(descriptions)}",
            note="Bars: median; whiskers: 5th to 95th percentile. Lower is faster.",
        )


def _names(blocks: Sequence[Block]) -> dict[str, str]:
    return {name: brief(heading) for name, heading in column_names(blocks).items()}


def _colours(blocks: Iterable[Block]) -> dict[tuple[int, str], str]:
    """Assign a colour to padded, to packed and to each method, one of four."""
    blocks = list(blocks)
    methods = list(dict.fromkeys(block.method for block in blocks if "method" in block.systems))
    return {
        (block.number, name): name
        if name != "method"
        else _METHOD_COLOURS[methods.index(block.method) % len(_METHOD_COLOURS)]
        for block in blocks
        for name in block.systems
    }


def _labels(blocks: Sequence[Block]) -> dict[tuple[int, str], str]:
    """Name points and lines by system for one block, by the number of the block for several."""
    names = _names(blocks)
    return {
        (block.number, name): names[name]
        if len(blocks) == 1
        else (str(block.number) if name == list(block.systems)[-1] else "")
        for block in blocks
        for name in block.systems
    }


def _describe_key(blocks: Sequence[Block], key: tuple[int, str]) -> str:
    name = _names(blocks)[key[1]]
    return name if len(blocks) == 1 else f"setting {key[0]} {name}"


def _curves(blocks: Iterable[Block]) -> list[list[Block]]:
    """Group the settings of one method on the same texts with the same architecture."""
    curves: dict[tuple[Any, ...], list[Block]] = {}
    for block in blocks:
        row, packed = block.rows[0], block.systems.get("packed")
        flops = None if packed is None or packed.flops is None else round(packed.flops)
        data = row.get("data", {}).get("hash")
        curves.setdefault((block.method, data, row.get("max_length"), flops), []).append(block)
    return list(curves.values())


def _runs(block: Block, name: str, metric: str) -> list[Point]:
    systems: list[Mapping[str, Any]] = [row["systems"].get(name, {}) for row in block.rows]
    return [
        (system["flops_per_text"] / 1e6, system["metrics"][metric])
        for system in systems
        if system.get("flops_per_text") is not None and metric in system.get("metrics", {})
    ]


def _point(axes: Axes, point: Point, colour: str, *, size: float, alpha: float = 1.0) -> None:
    x, y = point
    marker = _MARKERS[colour]
    axes.scatter(
        x, y, size, color=COLOURS[colour], marker=marker, alpha=alpha, linewidths=0, zorder=3
    )


def _label_ends(axes: Axes, ends: Sequence[tuple[Point, str, str]]) -> None:
    """Write the name of each line at its end, without overlap."""
    labelled = sorted((end for end in ends if end[1]), key=lambda end: end[0][1])
    spacing = axes.get_ylim()[1] * 0.06
    heights: list[float] = []
    for (_, y), *_ in labelled:
        heights.append(max(y, heights[-1] + spacing) if heights else y)
    raised = sum(height - y for height, ((_, y), *_) in zip(heights, labelled, strict=True))
    room = min(heights, default=0.0) - spacing / 2
    lowered = min(raised / max(len(labelled), 1), max(room, 0.0))  # centre the names on the lines
    for ((x, _), label, colour), height in zip(labelled, heights, strict=True):
        axes.annotate(
            label,
            (x, height - lowered),
            (7, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            parse_math=False,
            annotation_clip=False,
        )


def _legend(axes: Axes, blocks: Sequence[Block], colours: Mapping[tuple[int, str], str]) -> None:
    """Explain the colours above the axes, where lines and points show numbers only."""
    if len(blocks) == 1:
        return
    names = _names(blocks)
    descriptions = {
        colours[block.number, name]: brief(block.method) if name == "method" else names[name]
        for block in blocks
        for name in block.systems
    }
    handles = [
        axes.plot([], [], _MARKERS[colour], color=COLOURS[colour], markersize=5)[0]
        for colour in descriptions
    ]
    _place_legend(axes, handles, list(descriptions.values()))


def _place_legend(axes: Axes, handles: Sequence[Any], labels: Sequence[str]) -> None:
    legend = axes.legend(
        handles,
        labels,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=len(labels),
        frameon=False,
        borderaxespad=0,
        handlelength=1,
        columnspacing=1.4,
        handletextpad=0.5,
        labelcolor=COLOURS["ink"],
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
