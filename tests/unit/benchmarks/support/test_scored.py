"""Speed and score of one operating point stand together, or there is no score."""

from __future__ import annotations

from typing import Any

from benchmarks.support.scored import with_score
from fewer.report.report import markdown
from tests.unit.measure.results import result, without
from tests.unit.measure.swept import swept


def timed(threshold: float | None = None, **changes: Any) -> dict[str, Any]:
    row = without(swept(**changes), "metrics")
    del row["sweep"]
    return {**row, "kind": "bench", "threshold": threshold}


def accuracies(row: dict[str, Any]) -> list[float | None]:
    return [system["metrics"].get("accuracy") for system in row["systems"].values()]


def test_a_row_timed_at_a_threshold_has_the_score_at_that_threshold() -> None:
    joined = with_score(timed(0.5), [swept()])
    assert accuracies(joined) == [0.91, 0.885, 0.875]  # padded, packed, and (0.89 + 0.86) / 2
    assert joined["scored_rows"] == 8
    assert not joined["superseded"]
    assert with_score(timed(0.1), [swept()])["systems"]["method"]["metrics"] == {"accuracy": 0.885}


def test_a_row_timed_as_the_model_was_saved_has_the_score_of_that() -> None:
    assert accuracies(with_score(timed(), [swept()])) == [0.91, 0.885, 0.9]


def test_a_threshold_that_was_not_scored_has_no_score_and_the_table_says_so() -> None:
    joined = with_score(timed(0.7), [swept()])
    assert accuracies(joined) == [0.91, 0.885, None]
    line = markdown([joined]).splitlines()[-1]
    assert line.startswith("| magic_pyramid | not measured |") or "| not measured |" in line


def test_scores_of_other_models_or_of_another_training_are_not_taken() -> None:
    other = swept(model="runs/other/model")
    assert accuracies(with_score(timed(), [other])) == [None] * 3
    again = swept()
    again["method"] = {"name": "magic_pyramid", "args": {"joint_epochs": 2.0}}
    joined = with_score(timed(), [again])
    assert accuracies(joined) == [None] * 3
    assert joined["superseded"]


def test_the_newest_score_counts() -> None:
    new = swept()
    new["systems"]["method"]["metrics"]["accuracy"] = 0.5
    assert accuracies(with_score(timed(), [swept(), new]))[2] == 0.5
    assert result()["systems"]["method"]["metrics"]["accuracy"] == 0.9
