"""The table of certificates: how often promises were broken, and what they bought."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewer.hf.attach import attachment
from fewer.measure.rows import describe
from fewer.report.format import grid

if TYPE_CHECKING:
    from datasets import Dataset

    from fewer.certificate.bench import Bench

__all__ = [
    "MARGINS",
    "calibration_line",
    "certificate_table",
    "certified_table",
    "describe_bench",
    "probe_exit_table",
]

PROMISES = (0.01, 0.05)  # of README
MARGINS = (3.0, 2.0, 1.5, 1.2, 1.0, 0.7)
PROBE_HEADS = ("data", "margin", "changed", "FLOPs", "speed")
HEADS = ("model", "promised", "broken", "in the other half", "nothing certified", "FLOPs", "speed")


def describe_bench(
    kind: str, bench: Bench, *, model: str, source: str, table: Dataset
) -> dict[str, Any]:
    """Begin the row of a measurement on a bench, whose texts are those of the table."""
    row = describe(
        kind,
        model=model,
        method=attachment(bench.model).method,
        source=source,
        table=table,
        encoded=bench.encoded,
        max_length=bench.items.max_length,
        seed=0,
    )
    if bench.items.are_rankings:
        row["data"] |= {"queries": len(bench)}
    return row


def certificate_table(rows: Sequence[dict[str, Any]]) -> str:
    """Write one line per model and promise; the newest row of a name counts."""
    newest = {row["name"]: row for row in rows}
    lines = [
        (
            f"{name}, {_name_items(row)}",
            f"at most {100 * level['risk']:g} %",
            *(f"{100 * level[key]:.1f} %" for key in ("broken", "broken_in_half")),
            f"{100 * level['nothing_certified']:.0f} %",
            f"{1 / level['flops_share']:.2f}x fewer",
            f"{level['speedup']:.2f}x" if "speedup" in level else "-",
        )
        for name, row in newest.items()
        for level in row["levels"]
    ]
    return grid([HEADS, *lines], words=2)


def calibration_line(rows: Sequence[dict[str, Any]]) -> str:
    """Write what the newest calibration took."""
    row = rows[-1]
    wall, process = (row["seconds"][name] / 60 for name in ("wall", "process"))
    certificate = row["certificate"]
    return (
        f"{row['data']['rows']:,} texts of AG News, MiniLM-L6: {wall:.1f} minutes on "
        f"{row['threads']} threads ({process:.1f} of processor time), every method tried; at most "
        f"{100 * certificate['max_disagreement']:g} % of the answers changed, "
        f"{100 * certificate['flops_share']:.0f} % of the FLOPs."
    )


def certified_table(rows: Sequence[dict[str, Any]]) -> str:
    """Write what exits without training buy at two promises, one line per data set."""
    lines = [
        (
            _describe_data(row),
            *(
                cell
                for level in row["levels"]
                if level["risk"] in PROMISES
                for cell in (f"{1 / level['flops_share']:.1f}x fewer", f"{level['speedup']:.1f}x")
            ),
        )
        for row in _without_training(rows, "probe_exit", "cascade")
    ]
    heads = [head for risk in PROMISES for head in (f"FLOPs, at most {100 * risk:g} %", "speed")]
    return grid([("data", *heads), *lines], words=1)


def probe_exit_table(rows: Sequence[dict[str, Any]]) -> str:
    """Write what some margins of `ProbeExit` change and save on each data set."""
    lines = [
        (
            _describe_data(row),
            f"{margin:g}",
            f"{100 * changed:.1f} %",
            f"{1 / share:.2f}x fewer",
            f"{speedup:.2f}x",
        )
        for row in _without_training(rows, "probe_exit")
        for margin, changed, share, speedup in zip(
            *(row[key] for key in ("points", "changed", "flops_shares", "speedups")), strict=True
        )
        if margin in MARGINS and speedup is not None
    ]
    return grid([PROBE_HEADS, *lines], words=1)


def _without_training(rows: Sequence[dict[str, Any]], *methods: str) -> list[dict[str, Any]]:
    """Return the newest row of each name, in fp32, of methods that need no training."""
    shown = (row for row in rows if row["method"]["name"] in methods)
    newest = {row["name"]: row for row in shown if row.get("precision", "fp32") == "fp32"}
    return list(newest.values())


def _describe_data(row: dict[str, Any]) -> str:
    part = "" if "queries" in row["data"] else " test"
    return f"{Path(row['data']['source']).parent.name}{part}, {_count_items(row)}"


def _name_items(row: dict[str, Any]) -> str:
    """Name the texts and, where it is known, how many others the method was fitted to."""
    others = "other pairs" if "queries" in row["data"] else "others"
    given = row.get("given")
    return f"{_count_items(row)} ({given:,} {others} to fit to)" if given else _count_items(row)


def _count_items(row: dict[str, Any]) -> str:
    """Count the texts, or the lists that are ranked."""
    count, queries = row["data"]["rows"], row["data"].get("queries")
    return f"{count:,} texts" if queries is None else f"{queries:,} lists of {count // queries}"
