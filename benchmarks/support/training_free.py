"""The table of training-free pruning: what each rule and target costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewer.report.format import grid

__all__ = ["training_free_table"]

HEADS = (
    *("data", "rule", "layers", "merged", "target", "FLOPs"),
    *("accuracy, dense", "pruned", "difference", "changed"),
)


def training_free_table(rows: Sequence[dict[str, Any]]) -> str:
    """Write one line per data set, rule and target.

    The interval is that of a paired difference. Of two classes every changed answer is right on one
    side; of more it may be wrong on both, and the interval is too wide.
    """
    lines = []
    for row in sorted(rows, key=_order):
        packed, method = row["systems"]["packed"], row["systems"]["method"]
        dense, pruned = (system["metrics"]["accuracy"] for system in (packed, method))
        difference, changed, count = pruned - dense, method["changed"], row["data"]["rows"]
        margin = 1.96 * max(0.0, (changed - difference**2) / count) ** 0.5
        settings = row["method"]["args"]
        lines.append(
            (
                f"{_name(row)}, {count:,} texts",
                f"`{settings['rule']}`",
                *_variant(settings),
                f"{settings['target']:g}",
                f"{packed['flops_per_text'] / method['flops_per_text']:.2f}x fewer",
                f"{dense:.4f}",
                f"{pruned:.4f}",
                f"{100 * difference:+.1f} ± {100 * margin:.1f} points",
                f"{100 * changed:.1f} %",
            )
        )
    return grid([HEADS, *lines], words=4)


def _variant(settings: dict[str, Any]) -> tuple[str, str]:
    """Return which layers prune and whether the pruned are merged; rows of before name neither."""
    if settings["rule"] == "lexical":
        return "before the first", "no"
    searched = "searched" if settings.get("search") else "all"
    return searched, "yes" if settings.get("merge") else "no"


def _name(row: dict[str, Any]) -> str:
    path = Path(row["data"]["source"])
    return f"{path.parent.name} {path.name.split('.')[0]}"


def _order(row: dict[str, Any]) -> tuple[Any, ...]:
    settings, method = row["method"]["args"], row["systems"]["method"]
    return _name(row), -settings["target"], -method["metrics"]["accuracy"]
