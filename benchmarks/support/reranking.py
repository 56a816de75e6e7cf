"""The table of list-wise reranking: what token pruning and leaving lists cost."""

from __future__ import annotations

from typing import Any

from fewer.report.format import grid

__all__ = ["reranking_table"]

HEADS = ("token pruning", "leaves", "margin", "FLOPs", "nDCG@10", "difference, points", "speed")
NAMES = {"dense": "none", "lexical": "`lexical`, before the first layer", "tokens": "`cumulative`"}


def reranking_table(row: dict[str, Any], path: str) -> str:
    """Write two lines per way of pruning tokens: all documents read to their end, and not."""
    lines = []
    for name, system in row["cascades"].items():
        for kind in ("all", "best"):
            point = system[kind]
            mean, low, high = point["difference"]
            lines.append(
                (
                    NAMES[name],
                    "yes" if kind == "best" else "no",
                    f"{point['margin']:g}" if kind == "best" else "",
                    f"{1 / point['flops_share']:.2f}x fewer",
                    f"{point['ndcg']:.4f}",
                    f"{mean:+.1f} ({low:+.1f} to {high:+.1f})",
                    f"{point['speed']:.2f}x",
                )
            )
    note = (
        f"{row['questions']['test']} test questions, {row['questions']['dev']} dev questions, "
        f"lists of {row['list']}, top {row['top']}; {row['precision']}, {row['threads']} thread, "
        f"{row['processor']}; speed on {row['timed']} lists; paired bootstrap over questions, "
        f"95 %. Rows in `{path}`."
    )
    return f"{grid([HEADS, *lines], words=2)}\n\n{note}"
