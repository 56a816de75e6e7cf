"""Training: schedules by their formulas, the best step on dev, going on after a kill."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import set_seed

from fewer_lra.model import LRAModel
from fewer_lra.run import model_spec
from fewer_lra.train import accuracy, learning_rate_factor, pretrain, train
from tests.unit.fewer_lra import toy


def model() -> LRAModel:
    set_seed(0)
    return LRAModel(model_spec(toy.plan(), toy.task()), "softmax", {})


@pytest.mark.parametrize("step", [1, 50, 100, 101, 400])
def test_rsqrt_is_the_published_formula_and_never_0(step: int) -> None:
    schedule = toy.schedule(shape="rsqrt", warmup=100, steps=400)
    wanted = min(1, step / 100) / math.sqrt(max(step, 100))
    assert learning_rate_factor(schedule, step) == pytest.approx(wanted)
    assert learning_rate_factor(schedule, step) > 0


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ("cosine", {5: 0.5 * (1 + math.cos(0.05 * math.pi)) / 2, 10: 0.97553, 50: 0.5, 100: 0.0}),
        ("linear", {5: 0.5, 10: 1.0, 55: 0.5, 100: 0.0}),
        ("constant", {5: 0.5, 10: 1.0, 100: 1.0}),
    ],
)
def test_other_schedules_warm_up_and_go_their_way(shape: str, wanted: dict[int, float]) -> None:
    schedule = toy.schedule(shape=shape, warmup=10, steps=100)
    for step, share in wanted.items():
        assert learning_rate_factor(schedule, step) == pytest.approx(share, abs=1e-4)


def test_accuracy_counts_rows_whatever_the_batch_and_keeps_the_mode() -> None:
    rows, reader = toy.rows(37, 3), model().train()
    scores = {accuracy(reader, rows, size) for size in (1, 5, 64)}
    assert len(scores) == 1
    assert reader.training


def test_training_learns_and_keeps_the_best_step(tmp_path: Path) -> None:
    task, reader = toy.task(), model()
    history = train(reader, task, toy.schedule(), tmp_path, 0)
    assert [step for step, _ in history] == [20, 40, 60]
    best = max(score for _, score in history)
    assert best > 0.9 > task.majority("dev")
    reader.load_state_dict(torch.load(tmp_path / "best.pt"))
    assert accuracy(reader, task.dev, 8) == best
    assert json.loads((tmp_path / "dev.json").read_text()) == [list(one) for one in history]


def test_a_killed_run_goes_on_where_it_stood(tmp_path: Path) -> None:
    task = toy.task()
    whole = train(model(), task, toy.schedule(steps=40), tmp_path / "whole", 0)
    cut = toy.schedule(steps=40)
    with pytest.MonkeyPatch.context() as patch:
        # the second evaluation never comes: what a kill between two checkpoints leaves
        calls = []

        def killed(*args: object) -> float:
            if calls:
                raise KeyboardInterrupt
            calls.append(accuracy(*args))  # type: ignore[arg-type]
            return calls[0]

        patch.setattr("fewer_lra.train.accuracy", killed)
        with pytest.raises(KeyboardInterrupt):
            train(model(), task, cut, tmp_path / "cut", 0)
    assert [path.name for path in (tmp_path / "cut").glob("checkpoint-*")] == ["checkpoint-20"]
    resumed = model()
    assert train(resumed, task, cut, tmp_path / "cut", 0) == whole


def test_pretraining_guesses_hidden_tokens_better_than_before(tmp_path: Path) -> None:
    task = toy.task(pair=True)
    set_seed(0)
    reader = LRAModel(model_spec(toy.plan(), task), "softmax", {})
    before = {name: values.clone() for name, values in reader.state_dict().items()}
    ids = torch.full((4, 9), 3)
    arguments = (ids, torch.full((4,), 9), torch.ones_like(ids))
    was = float(reader.forward_masked(*arguments)["loss"].detach())
    pretrain(reader, task, toy.schedule(masked=0.5), tmp_path, 0)
    assert float(reader.forward_masked(*arguments)["loss"].detach()) < was
    after = reader.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if "head" in name)
