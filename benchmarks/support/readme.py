"""Claim and table of the README, from the rows of LTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewer.report.format import times

Row = dict[str, Any]


def claim(rows: list[Row]) -> str:
    """Write the gain of the newest row as one sentence."""
    row = rows[-1]
    flops, packed, padded = _gains(row)
    dense, method = _accuracies(row)
    return (
        f"**LTP on {_name(row)}, batches of 32, one CPU thread: {flops} FLOPs and {packed} than "
        f"the same model without padding ({padded} than with padding); accuracy {method}, dense "
        f"{dense}.**\n"
    )


def gains_table(rows: list[Row]) -> str:
    """Write one line per data set: accuracy, FLOPs and time of the dense model and of LTP."""
    heads = ("data", "tokens", "accuracy, dense", "with LTP", "FLOPs", "batch 32", "against padded")
    lines = [heads, ("---",) + ("---:",) * (len(heads) - 1)]
    lines += [
        (_name(row), f"at most {row['max_length']}", *_accuracies(row), *_gains(row))
        for row in rows
    ]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    note = "FLOPs and batch 32 against the dense model packed; the last column, padded."
    return f"{table}\n\n{note}\n"


def _name(row: Row) -> str:
    data = Path(row["data"]["source"])
    return f"{data.parent.name} {data.name.split('.')[0]}, {row['data']['rows']:,} texts"


def _accuracies(row: Row) -> tuple[str, str]:
    """Format the accuracy of the dense model and that of the method."""
    dense, method = (row["systems"][name]["metrics"]["accuracy"] for name in ("packed", "method"))
    return f"{dense:.4f}", f"{method:.4f}"


def _gains(row: Row) -> tuple[str, str, str]:
    """Format FLOPs and time of the method against packed, and its time against padded."""
    padded, packed, method = (row["systems"][name] for name in ("padded", "packed", "method"))
    speedup = method["latency_ms"]["32"]["speedup"]  # median of ratios to packed
    return (
        times(packed["flops_per_text"] / method["flops_per_text"], "fewer", "more", "as many"),
        times(speedup, "faster", "slower", "as fast"),
        times(speedup / padded["latency_ms"]["32"]["speedup"], "faster", "slower", "as fast"),
    )
