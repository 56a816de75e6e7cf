"""The table of a comparison, for a terminal and for pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from fewer.compare.settings import DENSE, START
from fewer.report.format import ABSENT, grid
from fewer.report.settings import first_metric
from fewer.report.terminal import lay_out

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Entry", "entries", "markdown", "table"]


@dataclass(frozen=True)
class Entry:
    """An arm at a target, averaged over its seeds."""

    arm: str
    target: float | None
    metric: str
    score: float
    spread: float | None  # standard deviation over seeds; None: one seed
    share: float  # of the dense FLOPs
    changed: float  # share of answers that differ from those of the first dense model
    speedups: Mapping[str, float]  # over the dense model, by batch size
    cpu_s: float | None  # of training one seed, after the first dense model
    difference: tuple[float, float, float] | None  # from the dense arm: mean, low, high
    before: tuple[float, float, float] | None  # from the first dense model


def entries(row: Mapping[str, Any]) -> list[Entry]:
    """Group the cells of a row, in its order."""
    groups: dict[tuple[str, float | None], list[Any]] = {}
    for cell in row["cells"]:
        groups.setdefault((cell["arm"], cell["target"]), []).append(cell)
    return [_entry(row, arm, target, cells) for (arm, target), cells in groups.items()]


def table(row: Mapping[str, Any]) -> Table:
    """Lay out a comparison for a terminal."""
    from rich.box import SIMPLE_HEAD

    frame: dict[str, Any] = {"box": SIMPLE_HEAD, "padding": (0, 1, 0, 0)}
    measured = entries(row)
    return lay_out(_lines(measured), title=_title(row), caption=_caption(row, measured), **frame)


def markdown(row: Mapping[str, Any]) -> str:
    """Write a comparison as a Markdown table, with what it holds for."""
    measured = entries(row)
    return f"{grid(_lines(measured), words=1)}\n{_title(row)}. {_caption(row, measured)}\n"


def _entry(row: Mapping[str, Any], arm: str, target: float | None, cells: Sequence[Any]) -> Entry:
    metric = first_metric(cells[0]["metrics"])
    assert metric is not None  # every task has one
    scores = [cell["metrics"][metric] for cell in cells]
    times_cpu = [cell["training"]["cpu_s"] for cell in cells if cell.get("training")]
    timed = [cell["latency_ms"] for cell in cells if "latency_ms" in cell]
    return Entry(
        arm,
        target,
        metric,
        fmean(scores),
        stdev(scores) if len(scores) > 1 else None,
        fmean(cell["flops_share"] for cell in cells),
        fmean(cell["changed"] for cell in cells),
        {size: timing["speedup"] for size, timing in (timed[0] if timed else {}).items()},
        fmean(times_cpu) if times_cpu else None,
        _difference(row, arm, target, DENSE),
        _difference(row, arm, target, START),
    )


def _difference(
    row: Mapping[str, Any], arm: str, target: float | None, reference: str
) -> tuple[float, float, float] | None:
    """Look up the difference from a dense model; of the first from the last it is turned round."""
    for entry in row["differences"]:
        names = entry["reference"], (entry["arm"], entry["target"])
        if names == (reference, (arm, target)):
            return entry["mean"], entry["low"], entry["high"]
        if (arm, reference) == (START, DENSE) and names == (START, (DENSE, None)):
            return -entry["mean"], -entry["high"], -entry["low"]
    return None


def _lines(measured: Sequence[Entry]) -> list[list[str]]:
    sizes = list(dict.fromkeys(size for entry in measured for size in entry.speedups))
    has_before = _has_before(measured)
    headings = ["arm", "FLOPs", measured[0].metric, "points from dense"]
    headings += [*(["points from before"] if has_before else []), "changed"]
    headings += [f"speed, batch {size}" for size in sizes] + ["CPU s"]
    return [headings, *([_name(entry), *_numbers(entry, sizes, has_before)] for entry in measured)]


def _name(entry: Entry) -> str:
    name = {START: "dense, before", DENSE: "dense, as long"}.get(entry.arm, entry.arm)
    return name if entry.target is None else f"{name}, {entry.target:g}"


def _has_before(measured: Sequence[Entry]) -> bool:
    """Return whether methods were compared with the first dense model: older rows do not."""
    return any(entry.before for entry in measured if entry.arm != DENSE)


def _points(difference: tuple[float, float, float] | None) -> str:
    if difference is None:
        return ABSENT
    mean, low, high = (100 * value + 0.0 for value in difference)
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def _numbers(entry: Entry, sizes: Sequence[str], has_before: bool) -> list[str]:
    spread = "" if entry.spread is None else f" ± {entry.spread:.4f}"
    speeds = [
        f"{entry.speedups[size]:.2f}x" if size in entry.speedups else ABSENT for size in sizes
    ]
    return [
        f"{entry.share:.2f}",
        f"{entry.score:.4f}{spread}",
        _points(entry.difference),
        *([_points(entry.before)] if has_before else []),
        f"{100 * entry.changed:.1f} %",
        *speeds,
        ABSENT if entry.cpu_s is None else f"{entry.cpu_s:,.0f}",
    ]


def _title(row: Mapping[str, Any]) -> str:
    settings = row["settings"]
    other_rows = f" on {row['arms_train']['rows']:,} other rows" if settings.get("arm_rows") else ""
    return (
        f"{row['data']['source']}, {row['data']['rows']:,} texts; {settings['model']}; "
        f"{row['train']['rows']:,} training rows, {settings['dense_epochs']:g} epochs dense, then "
        f"{settings['epochs']:g}{other_rows} for each arm"
    )


def _caption(row: Mapping[str, Any], measured: Sequence[Entry]) -> str:
    seeds = row["settings"]["seeds"]
    plural = "s" if len(seeds) > 1 else ""
    before = ", and from the one before" if _has_before(measured) else ""
    return (
        f"{len(seeds)} seed{plural}; an arm is named with its target; FLOPs of the dense model are "
        f"1; difference from the dense model trained as long{before}, paired bootstrap over the "
        f"texts, 95 %; operating points chosen on {row['dev']['rows']:,} other rows; changed: "
        "answers other than those of the model that all began with; speed over the dense model "
        "packed, of the first seed; CPU seconds of training"
    )
