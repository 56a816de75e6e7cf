import json

import pytest
from typer.testing import CliRunner

from fewer.cli.main import app


def invoke(*words):
    return CliRunner().invoke(app, ["compare", *map(str, words)], catch_exceptions=True)


@pytest.fixture
def options(model_folder, reviews):
    words = ["--model", model_folder, "--train", reviews, "--test", reviews, "--rows", 16]
    words += ["--test-rows", 12, "--column", "text=review", "--column", "label=stars"]
    words += ["--dense-epochs", 1, "--epochs", 1, "--runs", 0, "--batch-size", 8]
    return words


def test_a_comparison_writes_its_table_figure_and_row(options, tmp_path):
    result = invoke(*options, "--layers", 1, "--output", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "dense-1" in result.output
    (line,) = (tmp_path / "run" / "comparison.jsonl").read_text().splitlines()
    assert [cell["arm"] for cell in json.loads(line)["cells"]] == ["start", "dense", "dense-1"]
    assert "dense-1" in (tmp_path / "run" / "comparison.md").read_text()
    assert (tmp_path / "run" / "flops.svg").read_text().startswith("<svg")
    assert not (tmp_path / "run" / "times.svg").exists()  # nothing was timed


def test_an_unknown_method_is_told_before_anything_is_trained(options, tmp_path):
    result = invoke(*options, "--method", "lpt", "--output", tmp_path / "run")
    assert result.exit_code != 0
    assert "ltp" in str(result.exception)
    assert not (tmp_path / "run").exists()
