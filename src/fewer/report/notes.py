"""Notes of a result row: FLOPs against their target, exits without a threshold."""

from __future__ import annotations

from collections.abc import Iterable

from fewer.inference.predict import CLOSED
from fewer.report.html import visible
from fewer.report.settings import Row

__all__ = ["flops_line", "notes"]

TOLERANCE = 0.01  # a share this close to its target needs no explanation


def notes(rows: Iterable[Row]) -> list[str]:
    """Return the distinct lines to print under the table of these rows."""
    lines = [line for row in rows for line in (flops_line(row), _closed_note(row), *_remarks(row))]
    return list(dict.fromkeys(visible(line) for line in lines if line))


def flops_line(row: Row) -> str | None:
    """Compare the measured share of FLOPs with the target.

    `None` for a method without a target, and for a measurement at another threshold.
    """
    target = row.get("method", {}).get("args", {}).get("target")
    flops = [row["systems"].get(name, {}).get("flops_per_text") for name in ("method", "packed")]
    if target is None or row.get("threshold") is not None or not all(flops):
        return None
    share = flops[0] / flops[1]
    source = row.get("data", {}).get("source", "the data")
    line = f"FLOPs: {share:.2f} of the dense model's on {source}, target {target:.2f}"
    if abs(share - target) <= TOLERANCE:
        return line
    return f"{line} (calibrated on a sample of the training rows)"


def _closed_note(row: Row) -> str | None:
    """Explain that no text exits, where neither training nor the user set the threshold."""
    unset = "saved_threshold" in row and row["saved_threshold"] is None
    return CLOSED if unset and row.get("threshold") is None else None


def _remarks(row: Row) -> list[str]:
    """Collect the remarks on constant predictions; those of padded equal those of packed."""
    systems = {name: row["systems"].get(name, {}) for name in ("packed", "method")}
    return [
        f"{name}: {system['remark']}" for name, system in systems.items() if system.get("remark")
    ]
