"""Notes under the table of a result row."""

from __future__ import annotations

from typing import Any

import pytest

from fewer.inference.predict import CLOSED
from fewer.report.notes import certificate_line, flops_line, notes
from tests.unit.measure.results import dense, result, without


def shared(target: float, share: float, **changes: Any) -> dict[str, Any]:
    """Return a row with a target and a measured share of the FLOPs."""
    row = result(target=share, **changes)
    row["method"] = {"name": "ltp", "args": {"target": target}}
    return row


@pytest.mark.parametrize(("share", "explained"), [(0.5, False), (0.509, False), (0.56, True)])
def test_the_measured_share_of_flops_stands_beside_the_target(
    share: float, explained: bool
) -> None:
    (line,) = notes([shared(0.5, share)])
    start = f"FLOPs: {share:.2f} of the dense model's on reviews.csv, target 0.50"
    assert line.startswith(start)
    assert line.endswith("sample of the texts that it was fitted to)") == explained


@pytest.mark.parametrize(
    "row",
    [
        dense(),
        shared(0.5, 0.5, threshold=0.3),  # another one than training fitted to the target
        result(method={"name": "ltp", "args": {"target": None}}),
        without(shared(0.5, 0.5), "flops_per_text"),
    ],
)
def test_there_is_no_note_without_a_target_or_a_measurement(row: dict[str, Any]) -> None:
    assert flops_line(row) is None
    assert notes([row]) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"saved_threshold": None}, [CLOSED]),
        ({"saved_threshold": None, "threshold": 0.4}, []),
        ({"saved_threshold": 0.2}, []),
        ({}, []),
    ],
)
def test_exits_without_a_threshold_have_a_note(
    changes: dict[str, Any], expected: list[str]
) -> None:
    assert notes([result(method={"name": "fastbert", "args": {}}, **changes)]) == expected


def test_constant_predictions_have_a_note_for_packed_and_the_method() -> None:
    row = result(method={"name": "sentee", "args": {}})
    for name in ("padded", "packed", "method"):
        row["systems"][name]["remark"] = "no entity was predicted"
    assert notes([row, row]) == [
        "packed: no entity was predicted",
        "method: no entity was predicted",
    ]


@pytest.mark.parametrize(
    ("changed", "texts", "verdict"),
    [
        (0.005, 1000, "as promised"),
        (0.011, 1000, "within chance"),
        (0.03, 1000, "broken"),
        (0.03, 100, "within chance"),
    ],
)
def test_a_certificate_is_held_against_the_answers_that_changed(
    changed: float, texts: int, verdict: str
) -> None:
    row = result()
    row["certificate"] = {"max_disagreement": 0.01, "conditional": False, "point": 0.2}
    row["systems"]["method"]["changed"] = changed
    row["data"] = {**row["data"], "rows": texts}
    line = certificate_line(row)
    assert line is not None
    assert verdict in line


@pytest.mark.parametrize(
    "changes",
    [{"conditional": True}, {"point": None}, {"threshold": 0.5}, {"none": True}, {"top_k": 3}],
)
def test_a_certificate_about_something_else_has_no_line(changes: dict[str, Any]) -> None:
    row = result(threshold=changes.pop("threshold", None))
    if not changes.pop("none", False):
        promise = {"max_disagreement": 0.01, "conditional": False, "point": 0.2}
        row["certificate"] = promise | changes
    row["systems"]["method"]["changed"] = 0.5
    assert certificate_line(row) is None


def test_texts_unlike_those_of_the_calibration_are_told() -> None:
    row = result()
    flops = row["systems"]["packed"]["flops_per_text"]
    row["systems"]["method"]["flops_per_text"] = 0.5 * flops
    row["lengths"] = {"edges": [0, 10, 20, 30], "counts": [2, 90, 8]}
    promise = {"max_disagreement": 0.01, "conditional": False, "point": 0.2}
    row["certificate"] = {**promise, "shortest": 5, "longest": 25, "flops_share": 0.48}
    assert not any(line.startswith("drift") for line in notes([row]))
    row["certificate"] |= {"longest": 15, "flops_share": 0.6}
    (line,) = [line for line in notes([row]) if line.startswith("drift")]
    assert "8 texts are not of 5 to 15 tokens and 50% of the FLOPs are computed, not 60%" in line
    row["threshold"] = 0.4  # another point than the certified
    assert not any(line.startswith("drift") for line in notes([row]))


def test_a_text_of_a_ranking_is_a_query() -> None:
    row = result()
    row["data"] |= {"rows": 1020, "queries": 102}
    assert "a text is a query with its documents: 102 of 1,020 rows" in notes([row])
