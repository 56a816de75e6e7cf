"""End-to-end tests of `fewer set-threshold`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fewer
from fewer.measure.sweep import present_threshold
from tests.unit.cli.test_commands import run


@pytest.fixture
def exits(model_folder: Path, tmp_path: Path) -> Path:
    """Save a model with exits that were never trained, and its tokenizer."""
    from transformers import AutoTokenizer, BertForSequenceClassification

    model = BertForSequenceClassification.from_pretrained(model_folder)
    fewer.save(fewer.attach(model, fewer.EarlyExit()), tmp_path / "exits")
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(tmp_path / "exits")
    return tmp_path / "exits"


def test_the_copy_has_the_new_threshold_and_the_model_is_unchanged(
    exits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("set-threshold", exits, 0.3, "--output", tmp_path / "new") == 0
    assert "threshold never changed to 0.3" in capsys.readouterr().out
    before, after = (fewer.load(path, precision=None) for path in (exits, tmp_path / "new"))
    assert present_threshold(before) is None
    assert present_threshold(after) == 0.3
    weights = dict(before.named_parameters())
    assert all(torch.equal(weights[name], value) for name, value in after.named_parameters())
    assert (tmp_path / "new" / "tokenizer.json").exists()


@pytest.mark.parametrize(
    ("threshold", "output", "message"),
    [(0.3, "exits", "--output must be a new folder"), (7, "new", "threshold")],
)
def test_nothing_is_overwritten_and_the_range_is_checked(
    threshold: float,
    output: str,
    message: str,
    exits: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("set-threshold", exits, threshold, "--output", tmp_path / output) == 2
    assert message in capsys.readouterr().err
    assert present_threshold(fewer.load(exits, precision=None)) is None
    assert not (tmp_path / "new").exists()


def test_evaluate_and_explain_warn_about_untrained_exits(
    exits: Path,
    reviews: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fewer.inference import predict as predict_module

    monkeypatch.setattr(predict_module, "_logged", set())
    columns = ("--column", "text=review", "--column", "label=stars")
    measured = ("evaluate", exits, "--data", reviews, *columns, "--no-latency", "--limit", 8)
    assert run(*measured) == 2  # labels up and down, which the head does not know
    capsys.readouterr()
    model = fewer.load(exits, precision=None)
    model.config.id2label, model.config.label2id = {0: "down", 1: "up"}, {"down": 0, "up": 1}
    model.save_pretrained(exits)
    assert run(*measured) == 0
    assert "no text or token exits early" in capsys.readouterr().out
    assert run(*measured, "--threshold", 1.0) == 0
    assert "no text or token exits early" not in capsys.readouterr().out
    assert run("explain", exits, "good film") == 0
    assert predict_module.CLOSED in predict_module._logged
    Path("fewer-explain.html").write_text("mine")
    assert run("explain", exits, "good film") == 0
    assert Path("fewer-explain.html").read_text() == "mine"
    assert Path("fewer-explain-2.html").read_text().startswith("<!doctype html>")
