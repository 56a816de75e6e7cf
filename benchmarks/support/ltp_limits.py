"""The table of what limits LTP on questions."""

from __future__ import annotations

from typing import Any

from fewer.report.format import grid

__all__ = ["ltp_limits_table"]


def ltp_limits_table(row: dict[str, Any], path: str) -> str:
    """Write a line for each factor, and one for the dense model."""
    lines = [("thresholds", "FLOPs", "F1", "answers that are pruned")]
    lines.append(("dense, before", "1.00", f"{row['dense']['metrics']['f1']:.4f}", "-"))
    for point in row["points"]:
        name = {0.0: "nothing pruned", 1.0: "as learned"}.get(point["factor"])
        name = name or f"{point['factor']:g} of the learned"
        name += ", pruned tokens restored" if point["restore"] else ""
        lost = f"{point['lost'] / point['answers']:.1%}"
        cells = (f"{point['flops_share']:.2f}", f"{point['metrics']['f1']:.4f}", lost)
        lines.append((name, *cells))
    return (
        f"{grid(lines, words=1)}\n"
        f"{row['data']['source']}, {row['data']['rows']:,} questions; `{row['model']}`; answers: "
        "windows that hold the answer, pruned if its first or last token is. FLOPs of the dense "
        f"model, packed, are 1. Row in `{path}`."
    )
