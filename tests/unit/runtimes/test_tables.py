"""Tables of the runtimes, from handwritten rows."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from fewer.runtimes.tables import (
    break_even,
    break_even_table,
    describe_missing,
    describe_texts,
    full_table,
    strongest_table,
    summary_table,
    tables,
)
from tests.unit.measure.runtimes import fed_row, row, system


def lines(table: str) -> list[list[str]]:
    cells = [line.strip("| ").split(" | ") for line in table.splitlines()]
    return [cells[0], *cells[2:]]


def equal(tokens: int, same: float, of_all: float) -> dict[str, Any]:
    return row(profile=f"equal-{tokens}", ratio_same=same, ratio_all=of_all)


def test_the_summary_names_the_fastest_and_compares_ours() -> None:
    head, first, second = lines(summary_table([row()]))
    assert head == [
        *("texts", "batch", "fastest fp32 peer", "fastest bf16 peer", "fastest peer of all"),
        *("packed-fp32", "method-bf16", "score: packed, method"),
    ]
    assert first == [
        *("imdb, up to 512 tokens", "1", "hf-fp32 10.0 ms", "hf-bf16 6.00 ms", "ort-int8 4.00 ms"),
        *(
            "8.00 ms, 1.2x faster; 2.0x slower than all",
            "4.80 ms, 1.2x faster; 2.0x slower than all",
        ),
        "not measured",  # of the method in fp32, of packed in bf16
    ]
    assert second[1] == "8"


def test_a_peer_that_is_fastest_of_both_is_named_once() -> None:
    changed = row()
    changed["best"]["1"]["all"] = "hf-bf16"
    first = lines(summary_table([changed]))[1]
    assert first[-3:-1] == ["8.00 ms, 1.2x faster; 2.0x slower than all", "4.80 ms, 1.2x faster"]


def test_the_strongest_peer_is_compared_padded_and_in_its_fastest_feeding() -> None:
    head, first, second = lines(strongest_table([row(), fed_row()]))  # the first has no feedings
    assert head[2:4] == ["fastest peer, padded", "fastest peer, fed in any way"]
    assert first[1:] == [
        "1",
        *("-", "ort-int8 5.00 ms"),
        *("6.00 ms: 0.83x", "4.00 ms: 1.25x"),
        "99.0%, 99.5%, 98.0%",
    ]
    assert second[1:] == [
        "8",
        "ort-int8 80.0 ms",
        "ov-int8 48.0 ms, alone",
        "40.0 ms: 2.00x, 1.20x",
        "20.0 ms: 4.00x, 2.40x",
        "99.0%, 99.5%, 98.0%",
    ]


def test_agreement_comes_from_another_row_of_the_same_model_or_is_a_dash() -> None:
    fixed = fed_row(profile="equal-128", scored=False)
    assert lines(strongest_table([fixed, fed_row()]))[1][-1] == "99.0%, 99.5%, 98.0%"
    other = fed_row() | {"model": "runs/b/model"}
    assert lines(strongest_table([fixed, other]))[1][-1] == "-, -, -"


def test_process_time_counts_where_the_row_says_so() -> None:
    fed, _, second = fed_row(profile="equal-16"), *lines(summary_table([fed_row()]))[1:]
    assert second[2] == "hf-fp32 160 ms, alone"
    assert second[5] == "40.0 ms, 1.2x faster"
    assert break_even([fed], "packed-int8", "all") == "not up to 16"
    assert break_even([fed], "method-int8", "all") == "from 16, the shortest measured"


def test_each_time_stands_beside_its_feeding_agreement_and_score() -> None:
    page = full_table([fed_row()])
    head, *body = lines("\n".join(line for line in page.splitlines() if line.startswith("|")))
    start = head.index("CPU ms, batch 8")
    assert head[start : start + 8] == [
        *("CPU ms, batch 8", "wall ms", "fed", "ms whole, alone, sorted"),
        *("same label", "accuracy", "tokens/s", "peak"),
    ]
    assert body[3][start : start + 6] == [
        *("40.0 (0.00-999)", "80.0", "whole", "40.0, 48.0, -"),
        *("99.5%", "0.8950"),
    ]


def test_a_missing_system_is_a_dash() -> None:
    changed = row(profile="equal-16")
    del changed["systems"]["method-bf16"], changed["best"]["1"]["bf16"]
    last = lines(summary_table([row(), changed]))[3]
    assert (last[3], last[-2]) == ("-", "-")


def test_times_of_a_method_stand_beside_its_score() -> None:
    changed = row()
    for name, accuracy in (("packed-fp32", 0.89), ("method-fp32", 0.87)):
        timed = changed["systems"]["packed-fp32"]
        scored = {"metrics": {"accuracy": accuracy, "f1": 0.5}, "scored": 200}
        changed["systems"][name] = timed | scored
    assert lines(summary_table([changed]))[1][-1] == "0.890, 0.870 (accuracy of 200)"


def test_the_full_table_has_a_line_per_system_and_names_the_missing() -> None:
    page = full_table([row()])
    head, *body = lines("\n".join(line for line in page.splitlines() if line.startswith("|")))
    assert [line[0] for line in body] == [
        "hf-fp32",
        "hf-bf16",
        "ort-int8",
        "packed-fp32",
        "method-bf16",
    ]
    assert head[:5] == ["system", "precision", "off by", "same class", "accuracy"]
    assert body[3][5:9] == ["8.00 (7.20-8.80)", "1,000", "50%", "1.25, 0.50"]
    assert body[2][7] == body[2][8] == "-"  # a peer, and no peak of int8
    assert "### imdb, up to 512 tokens; one thread" in page
    assert "Not measured: openvino-f32 (openvino is not installed)." in page


def test_wrong_systems_are_marked_and_incomplete_scores_left_out() -> None:
    broken = row()
    broken["systems"]["hf-bf16"] |= {"wrong": True, "metrics": {}}
    head, _, second, *_ = lines(full_table([broken]).split("\n\n")[1])
    assert "accuracy" not in head
    assert second[2] == "0.002, wrong"


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ({16: 0.5, 32: 0.9, 64: 1.0, 128: 2.0}, "from 64"),
        ({16: 1.5, 32: 0.9, 64: 1.1}, "from 64"),
        ({16: 1.5, 32: 1.2}, "from 16, the shortest measured"),
        ({16: 1.5, 32: 0.5}, "not up to 32"),
        ({}, "-"),
    ],
)
def test_break_even_holds_for_all_longer_texts(ratios: dict[int, float], expected: str) -> None:
    rows = [equal(tokens, ratio, 0.1) for tokens, ratio in ratios.items()]
    assert break_even([*reversed(rows), row()], "packed-fp32", "same") == expected


def test_break_evens_hold_both_comparisons_of_our_systems() -> None:
    cells = lines(break_even_table([equal(16, 0.5, 0.2), equal(32, 1.5, 0.4)]))
    assert cells[1:] == [
        ["packed-fp32", "from 32", "not up to 32"],
        ["method-bf16", "from 32", "not up to 32"],
    ]


def test_natural_lengths_are_named_by_their_data() -> None:
    assert describe_texts(row()) == "imdb, up to 512 tokens"
    assert describe_texts(row(profile="equal-128")) == "equal 128"
    local = row()
    local["data"]["source"] = "mine.csv"
    assert describe_texts(local) == "mine.csv, up to 512 tokens"


def test_the_terminal_shows_what_the_page_shows() -> None:
    console = Console(width=100, record=True, file=None, quiet=False)
    with console.capture() as captured:
        for table in tables(row()):
            console.print(table)
    out = captured.get()
    assert all(f"batch {size}" in out for size in (1, 8))
    assert all(word in out for word in ("ort-int8", "7.20-8.80", "0.9000", "1.25, 0.50"))


def test_no_missing_system_is_an_empty_note() -> None:
    assert describe_missing({"missing": {}}) == ""
    assert system(1.0, "int8")["precision"] == "int8"
