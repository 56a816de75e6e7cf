"""Learning rate, label names and final output of `fewer fit`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import fewer
from fewer.cli.outcome import next_command, report_outcome
from fewer.recipe import Recipe
from fewer.training import fit as training
from tests.unit.cli.test_commands import run

COLUMNS = ("--column", "text=review", "--column", "label=stars")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, model_folder: Path, reviews: Path) -> Path:
    """Fit LTP on 32 rows; returns the folder of the run."""
    output = tmp_path_factory.mktemp("runs") / "reviews"
    words = ("fit", "--model", model_folder, "--train", reviews, "--output", output, "--limit", 32)
    options = ("--dense-epochs", 1, "--method", "ltp", "--set", "target=0.7", "--max-length", 32)
    assert run(*words, *COLUMNS, *options, "--precision", "fp32") == 0
    return output


def recipe_of(model_folder: Path, reviews: Path, **changes: Any) -> Recipe:
    columns = {"text": "review", "label": "stars"}
    method = {"name": "ltp", "args": {"target": 0.7}}
    content = {"model": str(model_folder), "train": str(reviews), "columns": columns}
    return Recipe.from_dict({**content, "method": method, **changes}, "test")


def test_the_next_command_runs_and_names_the_dense_model_and_the_columns(
    trained: Path, model_folder: Path, reviews: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report_outcome(recipe_of(model_folder, reviews), trained)
    *_, flops, score, last = capsys.readouterr().out.splitlines()
    assert flops.startswith("FLOPs: ")
    assert " of the dense model's on 64 of the training rows, target 0.70" in flops
    assert "--dev FILE" in score
    head, *words = last.removeprefix("next: ").split()
    assert head == "fewer"
    assert words[words.index("--baseline") + 1] == str(trained / "0-dense" / "model")
    words[words.index("YOUR_TEST_FILE")] = str(reviews)
    assert run(*words, "--no-latency") == 0
    assert not list(Path().iterdir())  # no report that nobody asked for


def test_dev_rows_are_scored_at_the_end(
    trained: Path, model_folder: Path, reviews: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report_outcome(recipe_of(model_folder, reviews, dev=str(reviews)), trained)
    out = capsys.readouterr().out
    assert "accuracy" in out
    assert "answers changed" in out
    assert f"on {reviews}, target" in out
    assert "no score" not in out


def test_wrong_dev_rows_are_refused_before_the_training(
    model_folder: Path, reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dev = tmp_path / "dev.jsonl"
    dev.write_text(json.dumps({"review": "good", "stars": "sideways"}))
    words = ("fit", "--model", model_folder, "--train", reviews, "--output", tmp_path / "run")
    assert run(*words, *COLUMNS, "--dev", dev) == 2
    assert "sideways" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_baseline_is_the_initial_model_where_its_head_was_trained(
    trained: Path, model_folder: Path, reviews: Path, tmp_path: Path
) -> None:
    """Without a dense phase the baseline is the initial model."""
    plain, pruned = trained / "0-dense" / "model", trained / "model"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").symlink_to(pruned)
    from fewer.cli.outcome import _baseline

    assert _baseline(recipe_of(plain, reviews), tmp_path / "run") == str(plain)
    assert _baseline(recipe_of(pruned, reviews), tmp_path / "run") is None
    assert _baseline(recipe_of(model_folder, reviews), tmp_path / "run") is None
    assert _baseline(recipe_of(plain, reviews, method="dense"), trained) is None
    assert "--baseline" not in next_command(recipe_of(pruned, reviews), trained, None)


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Collect the arguments of `fewer.fit` without training."""
    arguments: dict[str, Any] = {}

    def fit(model: Any, method: Any, train: Any, **options: Any) -> None:
        arguments.update(options, model=model)
        raise ValueError("enough")

    monkeypatch.setattr(training, "fit", fit)
    return arguments


@pytest.mark.parametrize(
    ("options", "dense", "phases"),
    [
        ((), 3e-5, None),
        (("--learning-rate", 2e-4), 2e-4, [2e-4, 2e-4]),
        (("--learning-rate", 2e-4, "--dense-epochs", 1), 2e-4, [2e-4, 2e-4]),
    ],
)
def test_the_learning_rate_applies_to_the_weights_in_every_phase(
    options: tuple[Any, ...],
    dense: float,
    phases: list[float] | None,
    fitted: dict[str, Any],
    model_folder: Path,
    reviews: Path,
    tmp_path: Path,
) -> None:
    words = ("fit", "--model", model_folder, "--train", reviews, "--output", tmp_path / "run")
    run(*words, *COLUMNS, "--max-length", 32, *options)
    assert fitted["dense"].learning_rate == dense
    soft, _ = fewer.LTP().phases()
    if phases is None:
        assert fitted["phases"] is None
    else:
        assert [phase.learning_rate for phase in fitted["phases"]] == phases
        assert fitted["phases"][0].policy_learning_rate == soft.policy_learning_rate


def test_an_option_overrides_the_dense_rate_and_heads_keep_theirs(
    fitted: dict[str, Any], model_folder: Path, reviews: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {model_folder}\ntrain: {reviews}\nmax_length: 24\nmethod: deebert\n"
        "columns: {text: review, label: stars}\ndense: {learning_rate: 1e-5}\nlearning_rate: 4e-5\n"
    )
    words = ("fit", "--recipe", recipe, "--output", tmp_path / "run")
    run(*words)
    assert fitted["dense"].learning_rate == 1e-5  # of the recipe's two the nearer
    heads = fewer.METHODS["deebert"]().phases()
    assert fitted["phases"] == list(heads)
    run(*words, "--learning-rate", 2e-4)
    assert fitted["dense"].learning_rate == 2e-4


def test_a_learning_rate_out_of_range_is_refused(
    model_folder: Path, reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("fit", "--model", model_folder, "--train", reviews, "--output", tmp_path / "run")
    for rate in (0, -1e-5, 3):
        assert run(*words, *COLUMNS, "--learning-rate", rate) == 2
        assert "learning_rate must be" in capsys.readouterr().err


def test_numeric_labels_get_the_names_of_the_option(
    fitted: dict[str, Any], model_folder: Path, tmp_path: Path
) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(json.dumps({"text": "good", "label": n % 2}) for n in range(4)))
    words = ("fit", "--model", model_folder, "--train", data, "--output", tmp_path / "run")
    run(*words, "--max-length", 32, "--label-names", "negative, positive")
    assert fitted["model"].config.id2label == {0: "negative", 1: "positive"}


def test_rows_without_labels_are_refused_with_the_method(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(json.dumps({"text": "good film"}) for _ in range(4)))
    words = ("fit", "--model", model_folder, "--train", data, "--output", tmp_path / "run")
    assert run(*words, "--method", "fastbert") == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "training and scoring need labels" in error
    assert "FastBERT" in error
