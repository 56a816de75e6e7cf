"""Recipes: profiles, what an attention changes, what the command line changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewer_lra.attentions import ATTENTIONS
from fewer_lra.recipes import LRARecipe, LRASchedule, profiles
from fewer_lra.tasks import TASKS
from tests.unit.fewer_lra.toy import schedule

RECIPES = Path(__file__).parents[3] / "recipes" / "lra"
TOY = """
small:
  data: {depth: 4, longer_than: 5, shorter_than: 30}
  model: {layers: 2, heads: 2}
  training: {steps: 10, batch_size: 4, learning_rate: 0.1, warmup: 5}
  pretraining: {steps: 20}
  attentions:
    local: {options: {block: 8}, model: {layers: 1}, training: {weight_decay: 0.7}}
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    (tmp_path / "listops.yaml").write_text(TOY, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("task", TASKS)
def test_every_recipe_settles_a_run_of_every_attention(task: str) -> None:
    for profile in profiles(RECIPES, task):
        recipe = LRARecipe.read(RECIPES, task, profile)
        assert recipe.data_spec({})
        plans = [recipe.plan(name, {}, pretrain=True) for name in ATTENTIONS]
        assert all(plan.training.steps > 0 and plan.pretraining for plan in plans)


def test_the_full_recipes_are_the_authors_configuration() -> None:
    listops = LRARecipe.read(RECIPES, "listops", "full").plan("softmax", {}, pretrain=False)
    assert (listops.model["layers"], listops.model["hidden"], listops.model["ffn"]) == (
        4,
        512,
        1024,
    )
    schedule = listops.training
    assert (schedule.steps, schedule.batch_size, schedule.learning_rate) == (5000, 32, 0.05)
    image = LRARecipe.read(RECIPES, "image", "full").plan("sinkhorn", {}, pretrain=False)
    assert (image.model["heads"], image.model["hidden"], image.training.weight_decay) == (
        1,
        32,
        0.7,
    )
    shares = {"listops": 0.10, "text": 0.15, "image": 0.50, "pathfinder": 0.50}
    for task, share in shares.items():
        plan = LRARecipe.read(RECIPES, task, "full").plan("softmax", {}, pretrain=True)
        assert plan.pretraining is not None
        assert plan.pretraining.masked == share


def test_an_attention_changes_the_profile_and_the_command_line_changes_both(toy: Path) -> None:
    recipe = LRARecipe.read(toy, "listops", "small")
    plain = recipe.plan("softmax", {}, pretrain=False)
    assert (plain.options, plain.model["layers"], plain.pretraining) == ({}, 2, None)
    local = recipe.plan("local", {"options.block": 4, "training.steps": 7}, pretrain=True)
    assert (local.options, local.model) == ({"block": 4}, {"layers": 1, "heads": 2})
    assert (local.training.steps, local.training.weight_decay) == (7, 0.7)
    assert local.pretraining is not None
    assert (local.pretraining.steps, local.pretraining.weight_decay) == (20, 0.7)
    assert recipe.model["layers"] == 2  # the recipe stays as it was read


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"steps": 7}, "--set must be section.key"),
        ({"trainig.steps": 7}, "did you mean 'training'"),
        ({"training.stepz": 7}, "stepz"),
        ({"training.steps": 0}, "steps"),
        ({"training.steps": "many"}, "steps"),
    ],
)
def test_changes_that_fit_nothing_are_refused(
    toy: Path, changes: dict[str, object], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        LRARecipe.read(toy, "listops", "small").plan("local", changes, pretrain=False)


def test_unknown_names_are_told_with_the_known(toy: Path) -> None:
    with pytest.raises(ValueError, match="profile must be one of small; got 'full'"):
        LRARecipe.read(toy, "listops", "full")
    with pytest.raises(ValueError, match="did you mean 'listops'"):
        LRARecipe.read(toy, "listop", "small")
    with pytest.raises(ValueError, match=r"--recipes .*text\.yaml"):
        LRARecipe.read(toy, "text", "small")
    with pytest.raises(ValueError, match="did you mean 'linformer'"):
        LRARecipe.read(toy, "listops", "small").plan("linforme", {}, pretrain=False)
    with pytest.raises(ValueError, match="deep"):
        LRARecipe.read(toy, "listops", "small").data_spec({"data.deep": 3})
    (toy / "listops.yaml").write_text("small: {modle: {}}", encoding="utf-8")
    with pytest.raises(ValueError, match="did you mean 'model'"):
        LRARecipe.read(toy, "listops", "small")
    (toy / "listops.yaml").write_text("small: {training: }", encoding="utf-8")
    with pytest.raises(ValueError, match=r"small: training .*None"):
        LRARecipe.read(toy, "listops", "small")


@pytest.mark.parametrize(
    "change",
    [{"steps": 0}, {"learning_rate": 0.0}, {"warmup": -1}, {"masked": 1.0}, {"shape": "step"}],
)
def test_a_schedule_out_of_range_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        schedule(**change)


def test_a_schedule_wants_its_three_numbers() -> None:
    with pytest.raises(TypeError, match="learning_rate"):
        LRASchedule(steps=1, batch_size=1)  # type: ignore[call-arg]
