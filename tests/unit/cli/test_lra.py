"""End-to-end tests of `fewer lra`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fewer_lra.tasks import TASKS
from tests.unit.cli.test_commands import run

RECIPE = """
small:
  data: {depth: 4, max_args: 4, longer_than: 5, shorter_than: 30, train: 80, dev: 16, test: 16}
  model: {layers: 1, heads: 2, hidden: 8, qkv: 8, ffn: 8, pooling: mean, positions: learned}
  training: {steps: 4, batch_size: 8, learning_rate: 0.01, warmup: 1, evaluate_every: 2}
  attentions:
    local: {options: {block: 4}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a recipe and the rows of two attentions, one also self-pretrained."""
    path = tmp_path_factory.mktemp("arena")
    (path / "listops.yaml").write_text(RECIPE, encoding="utf-8")
    assert arena(path, "listops", "softmax,local", "--set", "options.block=2") == 2  # no softmax's
    assert arena(path, "listops", "softmax,local", "--seed", 3) == 0
    assert arena(path, "listops", "local", "--self-pretrain", "--seed", 3) == 0
    return path


def arena(path: Path, *words: object) -> int:
    """Run `fewer lra run` with all folders under one path."""
    folders = ("--recipes", path, "--cache", path / "cache", "--output", path / "runs")
    return run("lra", "run", *words, *folders, "--results", path / "rows.jsonl")


def test_run_writes_a_row_for_each_attention(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    attentions = [(row["attention"], row["options"], bool(row["pretraining"])) for row in rows]
    assert attentions == [
        ("softmax", {}, False),
        ("local", {"block": 4}, False),
        ("local", {"block": 4}, True),
    ]
    assert all(row["seed"] == 3 and row["training"]["steps"] == 4 for row in rows)
    assert all(row["peak_memory_mb"] >= 0 for row in rows)


def test_run_twice_adds_no_row(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / "rows.jsonl").read_text()
    assert arena(folder, "listops", "softmax", "--seed", 3) == 0
    assert (folder / "rows.jsonl").read_text() == before
    assert "listops softmax: test" in capsys.readouterr().out


def test_table_and_figure_come_from_the_rows(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = folder / "rows.jsonl"
    assert run("lra", "table", "--results", results) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("majority", "softmax", "local", "self-pretrained"))
    assert run("lra", "table", "--results", results, "--markdown") == 0
    assert "| attention | listops | average |" in capsys.readouterr().out
    assert run("lra", "figure", "--results", results, "--output", folder / "arena.svg") == 0
    assert "local" in (folder / "arena.svg").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("listop", "softmax"), "did you mean 'listops'"),
        (("listops", "softmacks"), "did you mean 'softmax'"),
        (("listops", "softmax", "--profile", "full"), "profile must be one of small; got 'full'"),
        (("listops", "softmax", "--set", "training.steps"), "key=value"),
        (
            ("listops", "softmax", "--set", "training.steps={"),
            "training.steps={' is not valid YAML",
        ),
        (("listops", "softmax", "--set", "training.learning_rate=-1e-3"), "learning_rate"),
        (("listops", "softmax", "--set", "data.longer_than=40"), "longer_than"),
        (("listops,text", "softmax", "--data", "."), "--data"),
    ],
)
def test_wrong_arguments_are_refused_by_name(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert arena(folder, *words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tasks", "message"),
    [("listops,listop", "did you mean 'listops'"), ("listops,text", "--recipes")],
)
def test_an_error_in_a_later_task_is_raised_before_the_first_run(
    folder: Path, capsys: pytest.CaptureFixture[str], tasks: str, message: str
) -> None:
    before = (folder / "rows.jsonl").read_text()
    assert arena(folder, tasks, "local", "--seed", 4) == 2
    assert message in capsys.readouterr().err
    assert (folder / "rows.jsonl").read_text() == before


def test_a_profile_without_a_task_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for task in TASKS:
        (tmp_path / f"{task}.yaml").write_text("small: {}", encoding="utf-8")
    assert arena(tmp_path, "all", "softmax", "--profile", "smal") == 2
    assert "--profile" in capsys.readouterr().err


def test_a_figure_without_rows_lists_the_groups(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("lra", "figure", "--results", folder / "rows.jsonl", "--profile", "full") == 2
    assert "Long Range Arena, small, on cpu" in capsys.readouterr().err
