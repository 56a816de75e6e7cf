"""What a result row should say in words: FLOPs asked and got, exits that are closed."""

from __future__ import annotations

from collections.abc import Iterable

from fewer.inference.predict import CLOSED
from fewer.report.html import visible
from fewer.report.settings import Row

__all__ = ["flops_line", "notes"]

MET = 0.01  # a share that is as near to its target needs no explanation


def notes(rows: Iterable[Row]) -> list[str]:
    """Return the lines to print under the table of these rows, each once."""
    lines = [line for row in rows for line in (flops_line(row), _closed(row), *_remarks(row))]
    return list(dict.fromkeys(visible(line) for line in lines if line))


def flops_line(row: Row) -> str | None:
    """Compare the share of FLOPs that was asked for with the one measured.

    `None` for a method without a target, and where another threshold was set for this measurement.
    """
    target = row.get("method", {}).get("args", {}).get("target")
    flops = [row["systems"].get(name, {}).get("flops_per_text") for name in ("method", "packed")]
    if target is None or row.get("threshold") is not None or not all(flops):
        return None
    share = flops[0] / flops[1]
    source = row.get("data", {}).get("source", "the data")
    line = f"FLOPs: {target:.2f} of the dense model's asked for, {share:.2f} got on {source}"
    if abs(share - target) <= MET:
        return line
    return f"{line} (the target is fitted to a sample of the training rows)"


def _closed(row: Row) -> str | None:
    """Say why nothing leaves: neither training nor the user has set the threshold."""
    untouched = "saved_threshold" in row and row["saved_threshold"] is None
    return CLOSED if untouched and row.get("threshold") is None else None


def _remarks(row: Row) -> list[str]:
    """Collect what is wrong with answers that are all alike; padded says what packed says."""
    systems = {name: row["systems"].get(name, {}) for name in ("packed", "method")}
    return [
        f"{name}: {system['remark']}" for name, system in systems.items() if system.get("remark")
    ]
