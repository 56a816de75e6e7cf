"""Cases that several claims take from rows of `fewer evaluate`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.claims.claim import Case, Results
from benchmarks.claims.intervals import (
    Interval,
    area,
    counted,
    difference,
    paired_difference,
)
from fewer.methods.pruning import TrainingFree
from fewer.report.operating_points import (
    data_set,
    operating_point,
    reference_score,
    score_name,
)

__all__ = [
    "POINTS",
    "SIGNED",
    "cases_of",
    "differences",
    "flops_saved",
    "layer_areas",
    "layer_name",
    "lead",
    "loss",
    "loss_at_equal_score",
    "of_each_data_set",
    "run_name",
    "saved_at_equal_score",
    "training_free_rows",
]

Row = Mapping[str, Any]
POINTS = ("{:+.1f}", " points")  # form and unit
SIGNED = "{:+.2f}"


def of_each_data_set(rows: Iterable[Row]) -> dict[str, Row]:
    """Return one row per data set: of its test file where there is one, the newest of these."""
    chosen: dict[str, Row] = {}
    for row in rows:
        name, is_test = data_set(dict(row)), _is_test(row)
        is_better = name not in chosen or is_test or not _is_test(chosen[name])
        if "method" in row["systems"] and is_better:
            chosen[name] = row
    return chosen


def training_free_rows(results: Results, rule: str = TrainingFree.rule) -> list[Row]:
    """Return the rows of pruning by a rule without training, for the default share of the FLOPs."""
    chosen = {"rule": rule, "target": TrainingFree.target}
    return [
        row
        for row in results.rows("training-free")
        if chosen.items() <= row["method"]["args"].items()
    ]


def _is_test(row: Row) -> bool:
    return "test" in Path(row["data"]["source"]).name


def flops_saved(row: Row) -> Interval:
    """Return the FLOPs of the packed dense model divided by those of the method."""
    packed, method = row["systems"]["packed"], row["systems"]["method"]
    return counted(packed["flops_per_text"] / method["flops_per_text"])


def loss(row: Row) -> Interval:
    """Return the points of the score that a method loses against its dense model.

    The interval is paired where the row tells how many answers changed, else too wide.
    """
    metric = score_name(dict(row))
    dense, method = (row["systems"][name] for name in ("packed", "method"))
    values = method["metrics"][metric], dense["metrics"][metric]
    count = int(row["data"]["rows"])
    if metric == "accuracy" and "changed" in method:
        gap = paired_difference(*values, method["changed"], count)
    else:
        gap = difference(*values, count)
    return Interval(-100 * gap.value, -100 * gap.high, -100 * gap.low)


def saved_at_equal_score(row: Row) -> Interval | None:
    """Return the FLOPs saved at the threshold that loses at most a point of the score.

    It is chosen on one half of the texts and read on the other. `None` without such a threshold.
    """
    point = operating_point(dict(row))
    if point is None:
        return None
    return counted(point["dense_flops_per_text"] / point["flops_per_text"])


def loss_at_equal_score(row: Row) -> Interval | None:
    """Return the points lost at that threshold, on the half that did not choose it."""
    point, metric = operating_point(dict(row)), score_name(dict(row))
    if point is None:
        return None
    reference = reference_score(dict(row), 1)
    gap = difference(point["metrics"][metric], reference, int(point["texts"]))
    return Interval(-100 * gap.value, -100 * gap.high, -100 * gap.low)


def layer_areas(row: Row) -> dict[int, Interval]:
    """Return the area under the ROC curve of each layer's predictor of relevant blocks."""
    return {
        entry["layer"]: area(entry["auc"], entry["matter"], entry["blocks"] - entry["matter"])
        for entry in row.get("predictors", [])
    }


def layer_name(layer: int) -> str:
    """Name a layer, counted from 1."""
    return f"layer {layer + 1}"


def cases_of(rows: Mapping[str, Row], measure: Any) -> list[Case]:
    """Measure each row under its name; rows that have no such quantity are left out."""
    cases = [(name, measure(row)) for name, row in rows.items()]
    return [Case(name, interval) for name, interval in cases if interval is not None]


def differences(row: Row, first: str, second: str) -> list[tuple[str, Row, int]]:
    """Return where two methods are compared: the share of FLOPs, the entry, and its sign.

    `row` is one of `fewer compare`. The sign is -1 where the entry has the second ahead by its
    difference. Dense arms go by their own name, all others by that of their method.
    """
    arms = {
        arm: arm if method["name"] == "dense" else method["name"]
        for arm, method in row["settings"]["arms"].items()
    }
    compared = []
    for entry in row["differences"]:
        names = tuple(arms.get(name, name) for name in (entry["arm"], entry["reference"]))
        target = entry["target"] or entry["reference_target"] or 1.0
        if names in ((first, second), (second, first)):
            compared.append((f"{target:.0%} of the FLOPs", entry, 1 if names[0] == first else -1))
    return compared


def lead(entry: Row, sign: int) -> Interval:
    """Return a difference of `fewer compare` in points; its interval is a paired bootstrap."""
    mean, low, high = (100 * sign * entry[key] for key in ("mean", "low", "high"))
    return Interval(mean, min(low, high), max(low, high))


def run_name(row: Row) -> str:
    """Name the run that a row's model lies in."""
    return "/".join(part for part in Path(row["model"]).parts[1:] if part != "model")
