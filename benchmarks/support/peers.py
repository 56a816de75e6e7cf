"""The blocks and figures of "Which runtime when", from the rows of `fewer bench --peers`."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fewer.measure.rows import read_results
from fewer.report.svg import Drawing
from fewer.runtimes.figure import draw_latency_by_length
from fewer.runtimes.tables import (
    break_even_table,
    full_table,
    overhead_table,
    strongest_table,
    summary_table,
)

__all__ = ["PEER_BLOCKS", "describe_figure", "group_rows", "peer_figures"]

Rows = list[dict[str, Any]]
GLANCE = {
    "natural": ["1", "8", "32"],
    "equal-25": ["1"],
    "equal-128": ["1", "32"],
    "equal-512": ["1"],
}


def group_rows(path: Path) -> dict[tuple[str, int], Rows]:
    """Read the newest row of each profile, by processor and number of threads.

    The processor that was measured last comes first.
    """
    newest = {}
    for row in read_results(path) if path.exists() else []:
        machine = row["processor"], row["threads"]
        key = *machine, row["model"], row["data"]["hash"], row["max_length"], row["profile"]
        newest[key] = row
    groups: dict[tuple[str, int], Rows] = {}
    for row in newest.values():
        groups.setdefault((row["processor"], row["threads"]), []).append(row)
    last = {
        processor: max(row["time"] for row in newest.values() if row["processor"] == processor)
        for processor, _ in groups
    }
    order = sorted(groups, key=lambda group: group[1])
    return {group: groups[group] for group in sorted(order, key=lambda g: last[g[0]], reverse=True)}


def peer_figures(path: Path) -> dict[str, Drawing]:
    """Draw latency by length for each processor and number of threads, by file name."""
    drawn = {
        _name_figure(*group): draw_latency_by_length(rows)
        for group, rows in group_rows(path).items()
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def describe_figure(drawing: Drawing) -> str:
    """Return the alternative text of a figure."""
    label = re.search(r'aria-label="([^"]*)"', drawing.svg)
    assert label is not None  # every drawing has one
    return html.unescape(label[1])


def _name_figure(processor: str, threads: int) -> str:
    name = re.sub("[^a-z0-9]+", "-", processor.lower()).strip("-")
    return f"which-runtime-{name}-{threads}.svg"


def _write_groups(write: Callable[[Rows], str], path: Path, *, measured: bool = False) -> str:
    """Write a table for each processor and number of threads."""
    return "\n".join(
        f"**{_name_group(*group)}**\n\n{write(rows)}\n"
        + (f"{describe_measurement(rows)}\n" if measured else "")
        for group, rows in group_rows(path).items()
    )


def _name_group(processor: str, threads: int) -> str:
    return f"{processor}, {'one thread' if threads == 1 else f'{threads} threads'}"


def _write_figures(path: Path) -> str:
    """Show the figures, with all their numbers as alternative text."""
    figures, shown = peer_figures(path), []
    for group in group_rows(path):
        name = _name_figure(*group)
        figure = (
            f"![{describe_figure(figures[name])}]({name})"
            if name in figures
            else "No lengths measured yet."
        )
        shown.append(f"**{_name_group(*group)}**\n\n{figure}\n\n")
    return "\n".join(shown)


def _write_glance(path: Path) -> str:
    """Write a short table of one thread: mixed texts, and texts of equal length."""
    for (_, threads), rows in group_rows(path).items():
        shown = [
            {**row, "best": best}
            for row in rows
            if threads == 1 and "clock" in row
            if (
                best := {
                    size: row["best"][size]
                    for size in GLANCE.get(row["profile"], [])
                    if size in row["best"]
                }
            )
        ]
        if shown:
            return f"{strongest_table(shown)}\n{describe_measurement(shown)}"
    return ""


def describe_measurement(rows: Rows) -> str:
    """Write processors, versions, kernels and the speed of the fastest matrix product."""
    processors = sorted({str(row["processor"]) for row in rows})
    used = sorted(
        {f"{name} {version}" for row in rows for name, version in row["versions"].items()}
    )
    peaks = []
    for precision in ("fp32", "bf16"):
        rates = sorted(row["peak_flops"][precision] / 1e9 for row in rows)
        peaks.append(f"{precision} {rates[0]:,.0f} to {rates[-1]:,.0f}")
    kernels = sorted(
        {
            f"{system['precision']} by {system['kernels']}"
            for row in rows
            for system in row["systems"].values()
            if system.get("kernels")
        }
    )
    ours = f"Kernels of fewer: {', '.join(kernels)}. " if kernels else ""
    return (
        f"Measured on {'; '.join(processors)}, with {', '.join(used)}. {ours}{_count_runs(rows)}. "
        f"Fastest matrix product, GFLOP/s: {', '.join(peaks)}. Rows in "
        "`benchmarks/results/peers.jsonl`.\n"
    )


def _count_runs(rows: Rows) -> str:
    """Write the smallest and largest number of timed runs, and of the batches among them."""
    runs = [
        system["latency_ms"][size]["runs"]
        for row in rows
        for system in row["systems"].values()
        for size in row["best"]
    ]
    pools = [row["pool"] for row in rows]
    return f"Timed runs: {min(runs)} to {max(runs)}, of {min(pools)} to {max(pools)} batches a size"


PEER_BLOCKS: dict[str, Callable[[Path], str]] = {
    "glance": _write_glance,
    "peers": lambda path: _write_groups(summary_table, path, measured=True),
    "peers_break_even": lambda path: _write_groups(break_even_table, path),
    "peers_own_time": lambda path: _write_groups(overhead_table, path),
    "peers_figure": _write_figures,
    "peers_full": lambda path: _write_groups(full_table, path),
}
