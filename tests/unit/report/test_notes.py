"""What a result row says in words under its table."""

from __future__ import annotations

from typing import Any

import pytest

from fewer.inference.predict import CLOSED
from fewer.report.notes import flops_line, notes
from tests.unit.measure.results import dense, result, without


def shared(target: float, share: float, **changes: Any) -> dict[str, Any]:
    """A row that asked for one share of the FLOPs and got another."""
    row = result(target=share, **changes)
    row["method"] = {"name": "ltp", "args": {"target": target}}
    return row


@pytest.mark.parametrize(("share", "explained"), [(0.5, False), (0.509, False), (0.56, True)])
def test_the_share_of_flops_asked_for_stands_beside_the_one_measured(
    share: float, explained: bool
) -> None:
    (line,) = notes([shared(0.5, share)])
    start = f"FLOPs: {share:.2f} of the dense model's on reviews.csv, target 0.50"
    assert line.startswith(start)
    assert line.endswith("sample of the training rows)") == explained


@pytest.mark.parametrize(
    "row",
    [
        dense(),
        shared(0.5, 0.5, threshold=0.3),  # another one than training fitted to the target
        result(method={"name": "ltp", "args": {"target": None}}),
        without(shared(0.5, 0.5), "flops_per_text"),
    ],
)
def test_nothing_is_said_where_no_share_was_asked_for_or_measured(row: dict[str, Any]) -> None:
    assert flops_line(row) is None
    assert notes([row]) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"saved_threshold": None}, [CLOSED]),
        ({"saved_threshold": None, "threshold": 0.4}, []),
        ({"saved_threshold": 0.2}, []),
        ({}, []),
    ],
)
def test_exits_that_nobody_has_opened_are_told(changes: dict[str, Any], told: list[str]) -> None:
    assert notes([result(method={"name": "fastbert", "args": {}}, **changes)]) == told


def test_answers_that_are_all_alike_are_told_of_packed_and_of_the_method() -> None:
    row = result(method={"name": "sentee", "args": {}})
    for name in ("padded", "packed", "method"):
        row["systems"][name]["remark"] = "no entity was predicted"
    assert notes([row, row]) == [
        "packed: no entity was predicted",
        "method: no entity was predicted",
    ]
