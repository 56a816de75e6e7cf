"""The table of certificates: how often promises were broken, and what they bought."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fewer.report.format import grid

__all__ = ["certificate_table"]

HEADS = ("model", "promised", "broken", "in the other half", "nothing certified", "FLOPs")


def certificate_table(rows: Sequence[dict[str, Any]]) -> str:
    """Write one line per model and promise; the newest row of a name counts."""
    newest = {row["name"]: row for row in rows}
    lines = [
        (
            f"{name}, {row['data']['rows']:,} texts",
            f"at most {100 * level['risk']:g} %",
            *(f"{100 * level[key]:.1f} %" for key in ("broken", "broken_in_half")),
            f"{100 * level['nothing_certified']:.0f} %",
            f"{1 / level['flops_share']:.2f}x fewer",
        )
        for name, row in newest.items()
        for level in row["levels"]
    ]
    return grid([HEADS, *lines], words=2)
