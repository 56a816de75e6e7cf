"""The table of list-wise reranking: what token pruning and leaving lists cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fewer.report.format import grid

__all__ = ["reranking_table"]

HEADS = ("token pruning", "leaves", "margin", "FLOPs", "nDCG@10", "difference, points", "speed")
NAMES = {"dense": "none", "lexical": "`lexical`, before the first layer", "tokens": "`cumulative`"}


def reranking_table(rows: Sequence[dict[str, Any]]) -> str:
    """Write two lines per way of pruning tokens: all documents read to their end, and not."""
    lines, notes = [], []
    for row in rows:
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
        notes.append(
            f"{row['questions']['test']} test questions, {row['questions']['dev']} dev questions, "
            f"lists of {row['list']}, top {row['top']}; {row['precision']}, {row['threads']} "
            f"thread, {row['processor']}; time of {row['timed']} lists; paired bootstrap over "
            "questions, 95 %."
        )
    return "\n\n".join([grid([HEADS, *lines], words=2), *notes])
