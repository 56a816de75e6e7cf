"""A run: one row with all that is needed, written once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fewer_lra import run as runs
from fewer_lra.run import model_spec, run
from fewer_lra.speed import peak_memory_mb
from tests.unit.fewer_lra import toy


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not start a process to measure memory; one test does."""
    monkeypatch.setattr(runs, "peak_memory_mb", lambda *_: 1.5)


def train(folder: Path, plan: Any = None, seed: int = 0) -> dict[str, Any]:
    return run(
        plan or toy.plan(), toy.task(), seed=seed, output=folder, results=folder / "rows.jsonl"
    )


def test_a_row_holds_scores_speed_and_all_that_decided_them(tmp_path: Path) -> None:
    row = train(tmp_path)
    task = toy.task()
    assert (row["kind"], row["task"], row["attention"]) == ("lra", "listops", "softmax")
    assert row["majority"] == {"dev": task.majority("dev"), "test": task.majority("test")}
    assert row["score"]["test"] > 0.9 > row["majority"]["test"]
    assert row["score"]["dev"] == max(score for _, score in row["history"])
    assert row["last"]["dev"] == row["history"][-1][1]
    assert row["rows"] == {"train": 200, "dev": 40, "test": 60}
    assert row["data"] == {"hash": task.data_hash(), "source": "toy"}
    speed = row["speed"]
    assert (speed["batch_size"], speed["length"]) == (16, 9)
    assert min(speed[kind]["examples_per_s"] for kind in ("train", "inference")) > 0
    assert row["training"]["steps"] == 60
    assert row["model"]["max_length"] == 9
    assert {"command", "versions", "processor", "threads", "device"} <= set(row)
    assert json.loads((tmp_path / "rows.jsonl").read_text()) == row


def test_a_finished_run_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = train(tmp_path)
    monkeypatch.setattr(runs, "train", None)
    assert train(tmp_path) == row
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 1
    (tmp_path / "rows.jsonl").unlink()  # the run's own folder has it too
    assert train(tmp_path) == row
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 1
    with pytest.raises(TypeError):
        train(tmp_path, seed=1)
    with pytest.raises(TypeError):
        train(tmp_path, toy.plan("local", options={"block": 4}))


def test_self_pretraining_is_part_of_the_run(tmp_path: Path) -> None:
    row = train(tmp_path, toy.plan(pretraining=toy.schedule(steps=20, masked=0.4)))
    assert row["pretraining"]["masked"] == 0.4
    assert row["score"]["test"] > row["majority"]["test"]
    assert not list(tmp_path.rglob("checkpoint-*"))


@pytest.mark.parametrize("pair", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_memory_grows_with_the_model(pair: bool) -> None:
    task, plan = toy.task(pair=pair), toy.plan()
    small = model_spec(plan, task)
    large = replace(small, hidden=1024, ffn=4096)
    found = [peak_memory_mb(task, shape, plan) for shape in (small, large)]
    weights = 2 * 1024 * 4096 * 4 * 4 / 1e6  # FFN, with gradients and both moments
    assert 0 <= found[0] < weights < found[1] < 5 * weights


def test_a_key_that_a_model_lacks_is_told() -> None:
    with pytest.raises(ValueError, match="did you mean 'layers'"):
        model_spec(toy.plan(model={"layer": 2}), toy.task())
    with pytest.raises(ValueError, match="model: classes"):
        model_spec(toy.plan(model={"classes": 2}), toy.task())
    with pytest.raises(ValueError, match="layers"):
        model_spec(toy.plan(model={"layers": 2.5}), toy.task())
