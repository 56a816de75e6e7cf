"""Times and scores of one operating point in one row: `fewer bench` beside `fewer evaluate`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fewer.report.settings import Row, first_metric

__all__ = ["with_score"]

_SAME = ("model", "method", "max_length")  # of a timed row and of the row that holds its scores


def with_score(row: Row, scores: Iterable[Row]) -> dict[str, Any]:
    """Add to the systems of a timed row the score of the same model at the same threshold.

    The newest row of `scores` counts: its sweep where the row was timed at another threshold, else
    the score of the model as saved. A system without a score gets none. `scored_rows` counts the
    rows scored; `superseded` is true where the model has been trained again with another method.
    """
    same = [entry for entry in scores if entry["data"]["source"] == row["data"]["source"]]
    of_model = [entry for entry in same if entry.get("model") == row.get("model")]
    matching = [
        entry for entry in of_model if all(entry.get(name) == row.get(name) for name in _SAME)
    ]
    systems = {name: {**system, "metrics": {}} for name, system in row["systems"].items()}
    result: dict[str, Any] = {**row, "systems": systems}
    for scored in matching[-1:]:
        result["scored_rows"] = scored["data"]["rows"]
        metric = first_metric(scored["systems"]["packed"].get("metrics", {}))
        for name, system in systems.items():
            metrics = _select_metrics(row, scored, name)
            if metric is not None and metric in metrics:
                system["metrics"] = {metric: metrics[metric]}
    result["superseded"] = bool(of_model) and of_model[-1]["method"] != row["method"]
    return result


def _select_metrics(row: Row, scored: Row, name: str) -> Mapping[str, float]:
    """Return what a system scored at the threshold that `row` was timed at."""
    if name != "method" or row.get("threshold") == scored.get("threshold"):
        metrics: Mapping[str, float] = scored["systems"].get(name, {}).get("metrics", {})
        return metrics
    points = [
        entry for entry in scored.get("sweep", ()) if entry["threshold"] == row.get("threshold")
    ]
    return points[0]["metrics"] if points else {}
