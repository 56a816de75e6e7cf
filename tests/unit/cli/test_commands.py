"""End-to-end tests of the subcommands."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from datasets import Dataset

import fewer
from fewer.backbones.prepacked.autotune import Choice
from fewer.cli.common import roles
from fewer.cli.main import main
from fewer.hf import optimize as optimize_module
from fewer.tasks import infer
from tests.isas import INT8S


def run(*words: object) -> int:
    """Call the command line in this process; returns the exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["fewer", *map(str, words)])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, model_folder: Path, reviews: Path) -> Path:
    """Fit LTP on the CSV file through the command line; returns the folder of the run."""
    output = tmp_path_factory.mktemp("runs") / "reviews"
    status = run(
        *("fit", "--model", model_folder, "--train", reviews, "--output", output),
        *("--column", "text=review", "--column", "label=stars", "--max-length", 32),
        *("--dense-epochs", 1, "--batch-size", 16, "--precision", "fp32", "--seed", 7),
        *("--method", "ltp", "--set", "target=0.7", "--set", "strength=1.0"),
    )
    assert status == 0
    return output


def test_fit_leaves_a_folder_that_load_opens(trained: Path) -> None:
    model = fewer.load(trained / "model")
    assert fewer.attachment(model).method == fewer.LTP(target=0.7, strength=1.0)
    assert model.config.id2label == {0: "down", 1: "up"}
    assert json.loads((trained / "fit.json").read_text())["schedule"]["seed"] == 7


def test_evaluate_writes_a_row_of_three_systems_and_a_report(
    trained: Path, reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, report = tmp_path / "rows.jsonl", tmp_path / "report.html"
    status = run(
        *("evaluate", trained / "model", "--data", reviews, "--runs", 2, "--results", results),
        *("--column", "text=review", "--column", "label=stars", "--report", report),
    )
    assert status == 0
    (row,) = (json.loads(line) for line in results.read_text().splitlines())
    assert list(row["systems"]) == ["padded", "packed", "method"]
    padded, packed, method = row["systems"].values()
    assert padded["metrics"] == packed["metrics"]
    assert padded["flops_per_text"] > packed["flops_per_text"] > method["flops_per_text"]
    assert set(method["latency_ms"]) == {"1", "8", "32"}
    assert row["max_length"] == 32  # remembered from training
    assert row["data"]["rows"] == sum(row["lengths"]["counts"]) == 64
    assert "accuracy" in capsys.readouterr().out
    assert report.read_text().startswith("<!doctype html>")


@pytest.mark.skipif(not INT8S, reason="no int8 here")
def test_evaluate_measures_in_the_precision_that_is_named(
    trained: Path, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, columns = (
        tmp_path / "rows.jsonl",
        ("--column", "text=review", "--column", "label=stars"),
    )
    words = ("evaluate", trained / "model", "--data", reviews, "--no-latency", *columns)
    monkeypatch.setattr(optimize_module, "choose", lambda *_: Choice(INT8S[-1], "the test"))
    assert run(*words, "--precision", "int8", "--results", results) == 0
    row = json.loads(results.read_text())
    assert (row["precision"], row["kernels"]) == ("int8", INT8S[-1].name)
    assert row["systems"]["packed"]["changed"] <= 0.1


def test_a_wrong_precision_is_refused(
    trained: Path, reviews: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("evaluate", "bench"):
        words = (command, trained / "model", "--data", reviews, "--precision", "int4")
        assert run(*words) == 2
        assert "--precision must be one of auto, fp32, bf16, int8" in capsys.readouterr().err
    assert run("bench", trained / "model", "--data", reviews, "--peers", "--precision", "int8") == 2
    assert "--precision must not be given with --peers" in capsys.readouterr().err


def test_bench_needs_no_scores(trained: Path, reviews: Path, tmp_path: Path) -> None:
    results = tmp_path / "rows.jsonl"
    status = run(
        *("bench", trained / "model", "--data", reviews, "--batch", 4, "--runs", 2),
        *("--column", "text=review", "--column", "label=stars", "--results", results),
    )
    assert status == 0
    row = json.loads(results.read_text())
    assert "metrics" not in row["systems"]["method"]
    assert row["systems"]["packed"]["changed"] == 0.0
    assert 0 <= row["systems"]["method"]["changed"] <= 1
    assert (row["precision"], row["threads"]) == ("fp32", 1)
    assert row["systems"]["method"]["latency_ms"]["4"]["runs"] == 2


def test_explain_escapes_the_users_text(trained: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert (
        run("explain", trained / "model", "<script>alert(1)</script> good", "--output", page) == 0
    )
    assert "<script>alert" not in page.read_text()
    assert "good" in page.read_text()


def test_the_help_of_bench_names_the_extra(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", "--help") == 0
    assert "pip install 'fewer[peers]'" in capsys.readouterr().out


def test_methods_lists_every_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("methods") == 0
    out = capsys.readouterr().out
    assert all(name in out for name in fewer.METHODS)


def test_options_override_the_recipe(model_folder: Path, reviews: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {model_folder}\ntrain: {reviews}\nmax_length: 24\nmethod: dense\n"
        "columns: {text: review, label: stars}\ndense: {epochs: 0.5}\nschedule: {seed: 3}\n"
    )
    output = tmp_path / "run"
    assert run("fit", "--recipe", recipe, "--output", output, "--seed", 5, "--limit", 16) == 0
    saved = json.loads((output / "fit.json").read_text())
    assert (saved["schedule"]["seed"], saved["rows"], saved["method"]["name"]) == (5, 16, "dense")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("schedule: {sead: 3}", "got 'sead' (did you mean 'seed'?)"),
        ("schedule: {seed: x}", "schedule: seed"),
        ("dense: {epoch: 1}", "got 'epoch' (did you mean 'epochs'?)"),
        ("dense: {epochs: x}", "dense: epochs"),
    ],
)
def test_wrong_keys_and_values_of_a_section_are_refused(
    section: str,
    message: str,
    model_folder: Path,
    reviews: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {model_folder}\ntrain: {reviews}\nmethod: dense\n"
        f"columns: {{text: review, label: stars}}\n{section}\n"
    )
    assert run("fit", "--recipe", recipe, "--output", tmp_path / "run") != 0
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "/nowhere/model", "--data", "x.csv"], "not a folder"),
        (["fit", "--output", "{tmp}/r"], "model and train"),
        (["fit", "--output", "{tmp}/r", "--recipe", "{tmp}/none.yaml"], "none.yaml"),
        (["fit", "--output", "{tmp}/r", "--model", "m", "--train", "{tmp}/no.csv"], "no.csv"),
        (["fit", "--output", "{tmp}/r", "--model", "m", "--train", "t", "--set", "x"], "key=value"),
        (
            ["fit", "--output", "{tmp}/r", "--model", "m", "--train", "t", "--set", "targt=0.5"],
            "did you mean 'target'",
        ),
        (
            ["fit", "--output", "{tmp}/r", "--model", "m", "--train", "t", "--method", "ltpp"],
            "did you mean 'ltp'",
        ),
        (
            ["fit", "--output", "{tmp}/r", "--model", "m", "--train", "t", "--set", "target=2"],
            "target",
        ),
    ],
)
def test_user_errors_are_one_line_without_a_traceback(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*(word.format(tmp=tmp_path) for word in words)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_run_is_not_overwritten(
    trained: Path, model_folder: Path, reviews: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("fit", "--model", model_folder, "--train", reviews, "--output", trained)
    columns = ("--column", "text=review", "--column", "label=stars", "--max-length", 32)
    assert run(*words, *columns) == 2
    assert "resume=True" in capsys.readouterr().err
    assert run(*words, *columns, "--resume", "--seed", 8) == 2
    assert "schedule differ" in capsys.readouterr().err


def test_a_length_beyond_the_model_is_refused(
    trained: Path, reviews: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("evaluate", trained / "model", "--data", reviews, "--max-length", 99)
    assert run(*words) == 2
    assert "at most 48" in capsys.readouterr().err


def test_padded_and_packed_run_the_baseline(trained: Path, reviews: Path, tmp_path: Path) -> None:
    results = tmp_path / "rows.jsonl"
    baseline = trained / "0-dense" / "model"
    status = run(
        *("evaluate", trained / "model", "--data", reviews, "--no-latency", "--baseline", baseline),
        *("--column", "text=review", "--column", "label=stars", "--results", results),
    )
    alone = tmp_path / "alone.jsonl"
    assert status == 0
    run(
        *("evaluate", baseline, "--data", reviews, "--no-latency", "--results", alone),
        *("--column", "text=review", "--column", "label=stars"),
    )
    pruned, dense = (json.loads(path.read_text()) for path in (results, alone))
    assert pruned["systems"]["packed"] == dense["systems"]["packed"]
    assert pruned["training_seed"] == dense["training_seed"] == 7
    assert list(dense["systems"]) == ["padded", "packed"]


def test_the_labels_of_a_trained_head_are_kept(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sorted names would swap them: the head says down, up."""
    data = tmp_path / "more.jsonl"
    rows = [{"text": "good film", "label": "up"}, {"text": "bad film", "label": "a mess"}]
    data.write_text("\n".join(map(json.dumps, rows)))
    words = ("fit", "--model", trained / "model", "--train", data, "--output", tmp_path / "run")
    assert run(*words, "--method", "dense") == 2
    assert "unknown label 'a mess'" in capsys.readouterr().err


def test_a_model_without_its_tokenizer_is_refused(
    trained: Path, reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(trained / "model", folder)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert run("evaluate", folder, "--data", reviews, "--column", "text=review") == 2
    assert "tokenizer" in capsys.readouterr().err


def test_columns_are_checked_before_the_model_is_loaded(
    trained: Path,
    reviews: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fewer.hf.checkpoint.load", None)
    data = tmp_path / "test.csv"
    data.write_text("text,label\na,up\nb,\n")
    assert run("evaluate", trained / "model", "--data", data) == 2
    assert "'label', row 1" in capsys.readouterr().err
    assert run("bench", trained / "model", "--data", reviews, "--column", "label=x") == 2
    assert "no column 'x'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["1", "yes", "null", "Unnamed: 0", "a=b", "[x]", "1e3", "a: b", "é ü", "#x", "'q'"]
)
def test_any_column_name_is_accepted(name: str, tmp_path: Path) -> None:
    table = Dataset.from_dict({name: ["x", "y"], "other": ["x", "y"], "label": [0, 1]})
    assert infer(table, **roles([f"text={name}", " label=label"])).text == name


@pytest.mark.parametrize("pair", ["text", "=text", "text="])
def test_a_column_without_a_role_or_a_name_is_refused(pair: str) -> None:
    with pytest.raises(ValueError, match="--column"):
        roles([pair])


def test_an_unknown_role_of_a_column_is_refused(
    trained: Path, reviews: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", trained / "model", "--data", reviews, "--column", "txt=review") == 2
    assert "among text, text_pair, label" in capsys.readouterr().err


def test_a_second_demo_is_refused_before_it_starts(tmp_path: Path, capsys) -> None:
    (tmp_path / "fit.json").write_text("{}")
    assert run("demo", "--output", tmp_path) == 2
    told = capsys.readouterr()
    assert "--resume" in told.err
    assert "collecting" not in told.out
