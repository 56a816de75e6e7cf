"""Tables: scores beside the majority, averages over all tasks or none, seeds put together."""

from __future__ import annotations

import pytest

from fewer_lra.tables import costs, group_rows, markdown, tables
from tests.unit.fewer_lra.results import row, two_tasks


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("|")]


def test_lines_and_columns_are_in_the_papers_order() -> None:
    assert lines(markdown(two_tasks())) == [
        "| attention | listops | text | average |",
        "| --- | ---: | ---: | ---: |",
        "| majority | 25.00 | 25.00 | 25.00 |",
        "| softmax | 40.00 | 60.00 | 50.00 |",
        "| local | - | 55.00 | - |",
        "| linear | 20.00 | 62.50 | 41.25 |",
    ]


def test_seeds_are_averaged_and_the_newest_row_of_one_counts() -> None:
    rows = [
        row("text", "softmax", 0.9),
        row("text", "softmax", 0.5),
        row("text", "softmax", 0.7, seed=1),
    ]
    assert lines(markdown(rows))[-1] == "| softmax | 60.00 ± 14.14 | 60.00 |"


def test_profiles_pretraining_and_devices_have_tables_of_their_own() -> None:
    rows = [
        *two_tasks(),
        row("text", "linear", 0.8, pretraining={"steps": 9}),
        row("text", "linear", 0.7, profile="full", device="NVIDIA H200"),
        {"kind": "evaluate"},
    ]
    titles = [group.title for group in group_rows(rows)]
    assert titles == [
        "Long Range Arena, small, on cpu",
        "Long Range Arena, small, self-pretrained, on cpu",
        "Long Range Arena, full, on NVIDIA H200",
    ]
    assert [str(table.title) for table in tables(rows)] == titles
    assert [table.row_count for table in tables(rows)] == [4, 2, 2]


def test_no_rows_of_the_arena_is_an_error() -> None:
    with pytest.raises(ValueError, match="no rows of the arena"):
        group_rows([{"kind": "evaluate"}])


def test_costs_are_told_by_attention_and_task() -> None:
    assert lines(costs(two_tasks())) == [
        "| attention | listops | text |",
        "| --- | ---: | ---: |",
        "| softmax | 100 (50) | 100 (200) |",
        "| local | - | 100 (50) |",
        "| linear | 100 (50) | 100 (50) |",
    ]
    assert "per second of the processor" in costs(two_tasks())
    assert "in training per second, " in costs([row("text", "linear", 0.5, threads=2)])
