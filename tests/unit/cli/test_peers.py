"""End-to-end tests of `fewer bench --peers`, with fake runtimes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

import fewer
from fewer.runtimes import lineup, roofline
from fewer.runtimes.adapters import REFERENCE
from fewer.runtimes.lineup import OURS
from tests.unit.cli.test_commands import run
from tests.unit.measure.engine import FAKES, without_engine


@pytest.fixture
def attached(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Save a model with a method; the runtimes and the fastest matrix product are fakes."""
    without_engine(monkeypatch)
    monkeypatch.setattr(lineup, "PEERS", FAKES)
    monkeypatch.setattr(roofline, "gemm_peak", lambda: {"fp32": 1e10, "bf16": 1e11})
    config = BertConfig.from_pretrained(model_folder, id2label={0: "down", 1: "up"})
    model = BertForSequenceClassification(config)
    fewer.save(fewer.attach(model, fewer.LTP(final_threshold=0.05)), tmp_path / "model")
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def bench(model: Path, reviews: Path, *words: object) -> int:
    columns = ("--column", "text=review", "--column", "label=stars")
    return run("bench", model, "--data", reviews, *columns, *words)


def test_a_row_holds_every_system_and_names_the_missing(
    attached: Path, reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "rows.jsonl"
    sizes = ("--batch", 1, "--batch", 4, "--runs", 2, "--batches", 2, "--score-rows", 20)
    status = bench(attached, reviews, "--peers", *sizes, "--results", results)
    assert status == 0
    row = json.loads(results.read_text())
    assert list(row["systems"]) == [REFERENCE, "lying-fp32", *OURS]
    assert set(row["missing"]) == {"breaking-int8", "absent-fp32"}
    assert (row["kind"], row["profile"], row["pool"]) == ("peers", "natural", 2)
    assert row["peak_flops"] == {"fp32": 1e10, "bf16": 1e11}
    packed, reference = row["systems"]["packed-fp32"], row["systems"][REFERENCE]
    assert packed["scores"]["alone"] == reference["scores"]["alone"]  # the feeding of batch 1
    assert packed["scores"]["alone"]["agreement"] == 1.0
    assert packed["scored"] == 20
    assert set(packed["latency_ms"]) == {"1", "4"}
    assert packed["latency_ms"]["1"]["feeding"] == "alone"
    assert set(packed["latency_ms"]["4"]["feedings"]) == {"whole", "alone"}
    assert row["calibration_texts"] == row["data"]["rows"] // 4
    out = capsys.readouterr().out
    assert "packed-bf16" in out
    assert "missing: absent-fp32: swiftruntime is not installed" in out


def test_each_fixed_length_is_a_row(attached: Path, reviews: Path, tmp_path: Path) -> None:
    results = tmp_path / "rows.jsonl"
    lengths = ("--fixed-length", 8, "--fixed-length", 16, "--batch", 3, "--runs", 1, "--batches", 1)
    status = bench(attached, reviews, "--peers", *lengths, "--results", results)
    assert status == 0
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert [row["profile"] for row in rows] == ["equal-8", "equal-16"]
    assert [row["batches"]["3"] for row in rows] == [[[3, 24]], [[3, 48]]]
    assert rows[0]["systems"][REFERENCE]["scored"] == 48  # texts of their own lengths


def test_excluded_systems_are_named_as_missing(
    attached: Path, reviews: Path, tmp_path: Path
) -> None:
    results = tmp_path / "rows.jsonl"
    words = (
        "--exclude",
        "lying-fp32",
        "--batch",
        1,
        "--runs",
        1,
        "--batches",
        1,
        "--score-rows",
        0,
    )
    assert bench(attached, reviews, "--peers", *words, "--results", results) == 0
    row = json.loads(results.read_text())
    assert row["missing"]["lying-fp32"] == "left out"
    assert "scores" not in row["systems"][REFERENCE]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fixed-length", 8], "Add --peers"),
        (["--exclude", "hf-bf16"], "Add --peers"),
        (["--peers", "--report", "page.html"], "--results"),
        (["--peers", "--fixed-length", 400], "--fixed-length"),
        (["--peers", "--batch", 100], "--batch"),
        (["--peers", "--exclude", "nobody"], "'nobody'"),
    ],
)
def test_options_without_effect_are_refused(
    attached: Path,
    reviews: Path,
    words: list[object],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert bench(attached, reviews, *words) == 2
    assert message in capsys.readouterr().err


def test_bench_takes_a_baseline_too(attached: Path, reviews: Path, tmp_path: Path) -> None:
    results = tmp_path / "rows.jsonl"
    words = ("--baseline", attached, "--batch", 2, "--runs", 1, "--results", results)
    assert bench(attached, reviews, *words) == 0
    assert json.loads(results.read_text())["baseline"] == str(attached)
