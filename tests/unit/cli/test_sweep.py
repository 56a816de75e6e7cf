"""End-to-end tests of `fewer evaluate --sweep`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fewer.report.operating_points import operating_point
from tests.unit.cli.test_commands import run

COLUMNS = ("--column", "text=review", "--column", "label=stars")


def test_the_curve_is_printed_added_to_the_row_and_drawn(
    model_folder: Path, reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = run(
        *("fit", "--model", model_folder, "--train", reviews, "--output", tmp_path / "run"),
        *(*COLUMNS, "--max-length", 32, "--dense-epochs", 1, "--batch-size", 16),
        *("--method", "fastbert", "--precision", "fp32"),
    )
    assert status == 0
    capsys.readouterr()
    results, report = tmp_path / "exits.jsonl", tmp_path / "report.html"
    status = run(
        *("evaluate", tmp_path / "run" / "model", "--data", reviews, *COLUMNS, "--no-latency"),
        *("--baseline", tmp_path / "run" / "0-dense" / "model"),
        *("--sweep", "--results", results, "--report", report),
    )
    assert status == 0
    (row,) = (json.loads(line) for line in results.read_text().splitlines())
    never, *swept = row["sweep"]
    # exits trained with the model frozen: who never leaves answers as the dense model does
    assert never["metrics"] == row["systems"]["packed"]["metrics"]
    assert never["exits"] == [0, 0, 64]
    out = capsys.readouterr().out
    assert "at every threshold" in out
    assert all(f"{point['threshold']:g} " in out for point in swept)
    assert f"{row['saved_threshold']:g} (saved)" in out
    model = tmp_path / "run" / "model"
    assert f"fewer set-threshold {model} THRESHOLD --output NEW_FOLDER" in out
    assert "answers changed" in out
    assert never["changed"] == 0.0
    assert report.read_text().count("<figcaption>Where texts exit") == 1
    selected = operating_point(row, most_lost=100.0)
    assert selected is not None
    assert selected["texts"] == 32
