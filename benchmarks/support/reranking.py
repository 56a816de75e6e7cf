"""The table of list-wise reranking: what token pruning and leaving lists cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fewer.report.format import grid

__all__ = ["choose_margin", "reranking_table"]

HEADS = ("token pruning", "leaves", "margin", "FLOPs", "nDCG@10", "difference, points", "speed")
NAMES = {"dense": "none", "lexical": "`lexical`, before the first layer"}


def choose_margin(curve: Sequence[dict[str, Any]], loss: float) -> float:
    """Return the last margin, from wide to small, before one may lose more points to the widest.

    It may where the interval of its difference reaches further below that of the widest: a mean
    over few questions is luck.
    """
    widest, *others = sorted(curve, key=lambda point: -point["margin"])
    chosen = widest["margin"]
    for point in others:
        if point["difference"][1] < widest["difference"][1] - loss:
            break
        chosen = point["margin"]
    return float(chosen)


def reranking_table(row: dict[str, Any], path: str) -> str:
    """Write two lines per way of pruning tokens: all documents read to their end, and not.

    The margin is chosen on the dev curve, and the line is the test curve's at that margin.
    """
    lines = []
    for name, system in row["cascades"].items():
        margin = choose_margin(system["curves"]["dev"], row["loss"])
        at_margin = next(one for one in system["curves"]["test"] if one["margin"] == margin)
        speed = system["best"]["speed"] if margin == system["margin"] else None
        for point, leaves, ratio in (
            (system["all"], "", system["all"]["speed"]),
            (at_margin, f"{margin:g}", speed),
        ):
            mean, low, high = point["difference"]
            lines.append(
                (
                    NAMES[name],
                    "yes" if leaves else "no",
                    leaves,
                    f"{1 / point['flops_share']:.2f}x fewer",
                    f"{point['ndcg']:.4f}",
                    f"{mean:+.1f} ({low:+.1f} to {high:+.1f})",
                    "-" if ratio is None else f"{ratio:.2f}x",
                )
            )
    note = (
        f"{row['questions']['test']} test questions, {row['questions']['dev']} dev questions, "
        f"lists of {row['list']}, top {row['top']}; {row['precision']}, {row['threads']} thread, "
        f"{row['processor']}; speed on {row['timed']} lists; paired bootstrap over questions, "
        f"95 %. Rows in `{path}`."
    )
    curve = _curve(row["cascades"]["dense"]["curves"])
    return f"{grid([HEADS, *lines], words=2)}\n\nWithout token pruning:\n\n{curve}\n\n{note}"


def _curve(curves: dict[str, Any]) -> str:
    """Write what every margin saves and loses, on the dev and on the test questions."""
    of_dev = {point["margin"]: point for point in curves["dev"]}
    lines = [
        (
            f"{point['margin']:g}",
            f"{1 / point['flops_share']:.2f}x fewer",
            *(
                f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"
                for mean, low, high in (of_dev[point["margin"]]["difference"], point["difference"])
            ),
        )
        for point in curves["test"]
    ]
    return grid([("margin", "FLOPs", "dev, points", "test, points"), *lines], words=0)
