"""Tables and page show the numbers of the rows, whatever was measured, and escape markup."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fewer.report.format import short, times
from fewer.report.report import curve, markdown, table, write_html
from fewer.report.settings import group_rows
from tests.unit.measure.pages import Page, self_contained
from tests.unit.measure.results import dense, result, system, without
from tests.unit.measure.swept import swept, tagged

EVIL = "<script>alert(1)</script>\"'&|\x00\x1b[31m \ud800 中文"
SEEDS = [
    result(seed=seed, accuracy=accuracy) for seed, accuracy in enumerate((0.88, 0.90, 0.89), 40)
]


def printed(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Return the cells of the table as a terminal shows them, per line."""
    console = Console(width=120)
    with console.capture() as capture:
        console.print(table(rows))
    return [
        [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")]
        for line in capture.get().splitlines()
        if line.startswith(("│", "┃"))
    ]


def page(tmp_path: Path, rows: list[dict[str, Any]], **options: str) -> Page:
    return self_contained(write_html(rows, tmp_path / "new" / "report.html", **options))


def test_the_table_compares_three_systems() -> None:
    assert printed([result()]) == [
        ["one run", "padded HF", "packed", "LTP"],
        ["accuracy", "0.9100", "0.9100", "0.9000"],
        ["", "", "", "-0.0100"],
        ["f1", "0.9000", "0.9000", "0.8900"],
        ["", "", "", "-0.0100"],
        ["MFLOPs per text", "4,000", "2,000", "1,000"],
        ["FLOPs, packed = 1", "2.00", "1.00", "0.50"],
        ["", "2.0x more", "", "2.0x fewer"],
        ["ms, batch 1", "16.0 (14.4-19.2)", "8.00 (7.20-9.60)", "4.00 (3.60-4.80)"],
        ["", "2.0x slower", "", "2.0x faster"],
        ["ms, batch 8", "80.0 (72.0-96.0)", "40.0 (36.0-48.0)", "20.0 (18.0-24.0)"],
        ["", "2.0x slower", "", "2.0x faster"],
        ["ms, batch 32", "300 (270-360)", "150 (135-180)", "75.0 (67.5-90.0)"],
        ["", "2.0x slower", "", "2.0x faster"],
        ["tokens read, by layer", "64.0 in all 3", "31.5 in all 3", "31.5 15.2 4.00"],
    ]


def test_the_table_says_precision_kernels_and_threads_where_rows_share_them(tmp_path: Path) -> None:
    row = result(precision="bf16", kernels="AMX_BF16", threads=1)
    assert str(table([row]).title) == "bf16, kernels: AMX_BF16, 1 thread"
    assert str(table([result(), result(precision="bf16", threads=1)]).title) == "None"
    assert str(table([result(), result(precision="bf16")]).title) == "2 threads"
    assert "bf16, kernels: AMX_BF16, 1 thread" in page(tmp_path, [row]).text


def test_changed_answers_are_a_line_against_padded(tmp_path: Path) -> None:
    row = result()
    for name, share in (("padded", 0.0), ("packed", 0.0001), ("method", 0.0316)):
        row["systems"][name]["changed"] = share
    line = ["answers changed", "-", "0.01%", "3.16%"]
    assert line in printed([row])
    assert "| 3.16% |" in markdown([row])
    assert "answers changed: against padded HF" in page(tmp_path, [row]).text


def test_a_score_of_zero_has_a_remark_instead_of_a_change() -> None:
    row = result()
    for name in ("packed", "method"):
        metrics = {"f1": 0.0, "precision": 0.0, "recall": 0.0, "accuracy": 0.8}
        row["systems"][name] |= {"metrics": metrics, "remark": "no entity was predicted"}
    cells = printed([row])
    at = next(number for number, line in enumerate(cells) if line[0] == "f1")
    assert cells[at] == ["f1", "0.9000", "0.0000", "0.0000"]
    below = [" ".join(line[column] for line in cells[at + 1 : at + 3]) for column in (2, 3)]
    assert all(text.startswith("no entity was predicted") for text in below)
    assert str(cells).count("no entity") == 2  # not beside precision and recall again


def test_the_page_compares_flops_with_their_target(tmp_path: Path) -> None:
    text = page(tmp_path, [result(target=0.5), result(target=0.25)]).text
    assert text.count("0.50 of the dense model's on reviews.csv, target 0.50") == 1
    assert text.count("0.25 of the dense model's on reviews.csv, target 0.25") == 1


def test_a_slower_method_is_called_slower() -> None:
    row = result()
    row["systems"]["method"] = system(0.9, 1.9e9, [31.5, 31.0, 31.0], slowness=1.25)
    cells = [line[-1] for line in printed([row])]
    assert cells.count("1.2x slower") == 3
    assert "1.05x fewer" in cells


def test_the_interleaved_speedup_takes_precedence_over_the_medians() -> None:
    row = result()
    row["systems"]["method"]["latency_ms"]["1"]["speedup"] = 1.7
    del row["systems"]["method"]["latency_ms"]["8"]["speedup"]
    cells = [line[-1] for line in printed([row])]
    assert cells[8:12] == ["4.00 (3.60-4.80)", "1.7x faster", "20.0 (18.0-24.0)", "2.0x faster"]


def test_a_dense_model_has_two_columns() -> None:
    cells = printed([dense()])
    assert cells[0] == ["one run", "padded HF", "packed"]
    assert ["accuracy", "0.9100", "0.9100"] in cells


@pytest.mark.parametrize(
    ("missing", "lines"),
    [
        ("metrics", ["accuracy", "f1"]),
        ("latency_ms", ["ms, batch 1", "ms, batch 8", "ms, batch 32"]),
        ("flops_per_text", ["MFLOPs per text", "FLOPs, packed = 1"]),
        ("tokens_per_layer", ["tokens read, by layer"]),
    ],
)
def test_missing_measurements_are_left_out(tmp_path: Path, missing: str, lines: list[str]) -> None:
    row = without(result(), missing)
    full, partial_names = (
        {line[0] for line in printed([measured])} for measured in (result(), row)
    )
    assert full - partial_names == set(lines)
    text = page(tmp_path, [row]).text
    assert not any(line in text for line in lines)
    assert not any(f"| {line} |" in markdown([row]) for line in lines)


def test_rows_of_several_seeds_are_one_setting() -> None:
    (block,) = group_rows(SEEDS)
    assert block.runs == "mean of 3 runs, seeds 40, 41, 42"
    assert block.model == "runs/ltp-0.5/seed-*"
    mean = block.systems["method"].metrics["accuracy"]
    assert mean.value == pytest.approx(0.89)
    assert mean.spread == pytest.approx(0.01)
    cells = printed(SEEDS)
    assert cells[0][0] == "mean of 3 runs, seeds 40, 41, 42"
    assert cells[1] == ["accuracy", "0.9100 ± 0.0000", "0.9100 ± 0.0000", "0.8900 ± 0.0100"]


def test_the_training_seed_takes_precedence_over_the_seed_of_the_command() -> None:
    rows = [
        {**row, "training_seed": row["seed"], "seed": 0, "baseline": f"dense-{row['seed']}/model"}
        for row in SEEDS
    ]
    (block,) = group_rows(rows)
    assert block.runs == "mean of 3 runs, seeds 40, 41, 42"
    assert (
        len(group_rows([{**row, "seed": 0} for row in SEEDS])) == 3
    )  # who knows what 40 to 42 are?


@pytest.mark.parametrize(
    ("changes", "labels"),
    [
        ({"max_length": 128}, ["LTP, max_length 64", "LTP, max_length 128"]),
        ({"threads": 1}, ["LTP, threads 2", "LTP, threads 1"]),
        ({"kind": "bench"}, ["LTP, command evaluate", "LTP, command bench"]),
        ({"baseline": "dense/0"}, ["LTP, baseline None", "LTP, baseline dense/*"]),
        (
            {"method": {"name": "ltp", "args": {"target": 0.3, "strength": 0.1}}},
            ["LTP(target=0.5)", "LTP(target=0.3)"],
        ),
        ({"method": {"name": "skim", "args": {}}}, ["LTP", "skim"]),
        (
            {"model": "other/model", "seed": 7},
            ["LTP, model runs/ltp-0.5/seed-*", "LTP, model other/model"],
        ),
    ],
)
def test_different_settings_are_separate_and_labelled_by_their_difference(
    changes: dict[str, Any], labels: list[str]
) -> None:
    assert [block.label for block in group_rows([result(), result(**changes)])] == labels


def test_each_target_is_a_section(tmp_path: Path) -> None:
    rows = [result(target=target) for target in (0.25, 0.5, 0.75)]
    firsts = [line[0] for line in printed(rows)]
    assert [first for first in firsts if "LTP" in first] == [
        "1. LTP(target=0.25)",
        "2. LTP(target=0.5)",
        "3. LTP(target=0.75)",
    ]
    html = page(tmp_path, rows)
    assert "All settings" in html.text
    for number in (1, 2, 3):
        assert {"href": f"#setting-{number}"} in html.named("a")
    for fewer in ("4.0x fewer", "2.0x fewer", "1.3x fewer"):
        assert html.text.count(fewer) == 2  # in the summary and in its own section


def test_the_curve_of_exits_is_a_separate_table() -> None:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(curve(tagged()))
    body = [line.split() for line in capture.get().splitlines() if line.startswith("│")]
    assert [[word for word in line if word != "│"] for line in body] == [
        ["never", "0.6900", "1.040", "1.04x", "more", "4.00"],
        ["0.1", "0.6850", "0.800", "1.2x", "fewer", "3.25"],
        ["0.5", "0.6750", "0.500", "2.0x", "fewer", "2.50"],
        ["0.9", "0.4900", "0.250", "4.0x", "fewer", "1.00"],
    ]
    with console.capture() as capture:
        console.print(curve(tagged(saved_threshold=0.1)))
    assert (
        next(line for line in capture.get().splitlines() if "(saved)" in line).split()[1] == "0.1"
    )
    assert capture.get().count("(saved)") == 1
    with console.capture() as capture:
        console.print(curve(tagged(saved_threshold=None)))
    assert "never (saved)" in capture.get()
    with pytest.raises(ValueError, match="must hold a sweep"):
        curve(result())


def test_the_page_draws_the_curve_of_every_row_that_has_one(tmp_path: Path) -> None:
    second_seed = swept(training_seed=43, model="runs/magic_pyramid-43/model")
    title = "accuracy by threshold"
    cases = [([swept()], 1), ([result()], 0), ([swept(), second_seed, result()], 2)]
    cases.append(([swept(), without(swept(threads=1), "latency_ms")], 1))  # the same numbers once
    for rows, count in cases:
        text = page(tmp_path, rows).text
        assert (text.count(title), text.count("Where texts exit")) == (count, count)
        assert ("Of runs/magic_pyramid-43/model" in text) == (count == 2)


def test_entities_lead_with_f1_and_tags_with_accuracy(tmp_path: Path) -> None:
    entities, tags = tagged(), result()
    for row, metrics in ((entities, ("f1", "precision", "accuracy")), (tags, ("f1", "accuracy"))):
        for system_ in row["systems"].values():
            system_["metrics"] = dict.fromkeys(metrics, 0.5)
    for row, name in ((entities, "f1"), (tags, "accuracy")):
        text = page(tmp_path, [row]).text
        assert f"{name} against FLOPs" in text
        assert f"{name} 0.5000" in text


def test_markdown_has_a_line_for_each_system() -> None:
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in markdown([result()]).splitlines()
    ]
    assert lines[0][:3] == ["system", "accuracy", "f1"]
    assert set(lines[1]) == {"---", "---:"}
    assert [line[0] for line in lines[2:]] == ["padded HF", "packed", "LTP"]
    cells = dict(zip(lines[0], lines[4], strict=True))
    assert cells == {
        "system": "LTP",
        "accuracy": "0.9000 (-0.0100)",
        "f1": "0.8900 (-0.0100)",
        "MFLOPs per text": "1,000",
        "FLOPs, packed = 1": "0.50 (2.0x fewer)",
        "ms, batch 1": "4.00 (3.60-4.80), 2.0x faster",
        "ms, batch 8": "20.0 (18.0-24.0), 2.0x faster",
        "ms, batch 32": "75.0 (67.5-90.0), 2.0x faster",
        "tokens read, by layer": "31.5 15.2 4.00",
    }


def test_markdown_of_several_settings_is_a_whole_grid() -> None:
    rows = [*SEEDS, dense(), without(result(kind="bench"), "metrics")]
    lines = markdown(rows).splitlines()
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    assert len(lines) == 2 + 3 + 2 + 3
    assert "LTP, command evaluate, mean of 3 runs, seeds 40, 41, 42" in lines[2]


def test_markup_in_a_row_is_escaped(tmp_path: Path) -> None:
    row = result(
        command=EVIL,
        model=EVIL,
        processor=EVIL,
        method={"name": EVIL, "args": {EVIL: EVIL}},
        data={"source": EVIL, "hash": EVIL, "rows": 1},
    )
    for measured in row["systems"].values():
        measured["metrics"] = {f"{EVIL} $x$": 0.5}
    second = copy.deepcopy(row)
    second["method"]["name"] = f"other {EVIL}"
    html = page(tmp_path, [row, second], title=EVIL)
    assert html.text.count("<script>alert(1)</script>") > 10
    assert "<script" not in html.source
    assert "\x00" not in html.source
    assert "\x1b" not in html.source
    lines = markdown([row, second]).splitlines()
    assert not any("<script" in line for line in lines)
    assert {line.replace("\\|", "").count("|") for line in lines} == {lines[0].count("|") - 1}
    assert any("<script>alert(1)</script>" in line[0] for line in printed([row, second]))


def test_the_page_holds_the_provenance_of_each_row(tmp_path: Path) -> None:
    html = page(tmp_path, SEEDS, title="Three seeds")
    assert "Three seeds" in html.text
    for seed in (40, 41, 42):
        assert f"fewer evaluate runs/ltp-0.5/seed-{seed}" in html.text
    for value in (
        "fewer 0.1.0, torch 2.13.0, transformers 5.23.0, python 3.11.7",
        "A Processor 3000",
        "reviews.csv, 60 rows, hash 0123456789abcdef",
        "2026-01-02T03:04:05+00:00",
        '"strength": 0.1',
    ):
        assert html.text.count(value) >= 3


def test_the_page_begins_with_the_main_results(tmp_path: Path) -> None:
    text = " ".join(page(tmp_path, [result()]).text.split())
    assert "2.0x fewer FLOPs than packed; 4.0x fewer than padded HF" in text
    assert "accuracy 0.9000 -0.0100 against packed" in text
    assert "2.0x faster than packed at batch 32; 4.0x faster than padded HF" in text


def test_no_rows_make_an_empty_table_and_page(tmp_path: Path) -> None:
    assert table([]).row_count == 0
    assert "There are no result rows yet" in page(tmp_path, []).text


def test_a_row_without_systems_is_refused() -> None:
    with pytest.raises(ValueError, match=r"result row 2 .* got kind"):
        table([result(), {"kind": "evaluate"}])


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0, "0.00"), (9.994, "9.99"), (9.996, "10.0"), (99.96, "100"), (12345.6, "12,346")],
)
def test_numbers_have_three_digits(value: float, expected: str) -> None:
    assert short(value) == expected


@pytest.mark.parametrize(
    ("factor", "expected"),
    [(1.0, "as fast"), (1.004, "as fast"), (1.05, "1.05x faster"), (0.5, "2.0x slower")],
)
def test_factors_are_written_above_one(factor: float, expected: str) -> None:
    assert times(factor, "faster", "slower", "as fast") == expected
