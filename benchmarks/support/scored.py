"""Times and scores of one operating point in one row: `fewer bench` beside `fewer evaluate`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fewer.report.settings import Row, first_metric

__all__ = ["with_score"]

_SAME = ("model", "method", "max_length")  # of a timed row and of the row that holds its scores


def with_score(row: Row, scores: Iterable[Row]) -> dict[str, Any]:
    """Add to the systems of a timed row the score of the same model at the same threshold.

    It is looked up in `scores`, of which the newest counts: in the sweep where the row was timed at
    a threshold of its own, else where the model was scored as it was saved. A system whose score is
    found nowhere has none. `scored_rows` counts the rows scored; `superseded` says that the model
    has been trained again, in another way.
    """
    same = [one for one in scores if one["data"]["source"] == row["data"]["source"]]
    of_model = [one for one in same if one.get("model") == row.get("model")]
    alike = [one for one in of_model if all(one.get(name) == row.get(name) for name in _SAME)]
    systems = {name: {**system, "metrics": {}} for name, system in row["systems"].items()}
    found: dict[str, Any] = {**row, "systems": systems}
    for scored in alike[-1:]:
        found["scored_rows"] = scored["data"]["rows"]
        metric = first_metric(scored["systems"]["packed"].get("metrics", {}))
        for name, system in systems.items():
            metrics = _metrics(row, scored, name)
            if metric is not None and metric in metrics:
                system["metrics"] = {metric: metrics[metric]}
    found["superseded"] = bool(of_model) and of_model[-1]["method"] != row["method"]
    return found


def _metrics(row: Row, scored: Row, name: str) -> Mapping[str, float]:
    """Return what a system scored at the threshold that `row` was timed at."""
    if name != "method" or row.get("threshold") == scored.get("threshold"):
        metrics: Mapping[str, float] = scored["systems"].get(name, {}).get("metrics", {})
        return metrics
    points = [one for one in scored.get("sweep", ()) if one["threshold"] == row.get("threshold")]
    return points[0]["metrics"] if points else {}
