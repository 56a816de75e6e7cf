import pytest
import torch
from datasets import Dataset

import fewer
from fewer.hf.side_file import SIDE_FILE
from fewer.recipe import Recipe, load_for, run
from fewer.tasks.classification import infer

ROWS = Dataset.from_dict({"text": ["good film", "bad film"], "label": ["up", "down"]})


def test_the_new_head_depends_on_the_seed_alone(model_folder):
    task, states = infer(ROWS), []
    for seed, before in ((7, 1), (7, 2), (8, 1)):
        torch.manual_seed(before)
        model, is_new = load_for(task, str(model_folder), seed=seed)
        assert is_new
        states.append(model.state_dict())
    first, same, second_seed = states
    assert all(torch.equal(same[name], tensor) for name, tensor in first.items())
    different = {
        name for name, tensor in first.items() if not torch.equal(second_seed[name], tensor)
    }
    assert different == {"classifier.weight"}


def test_a_head_for_other_labels_is_refused_with_shapes(model_folder, tmp_path):
    task = infer(ROWS)
    model, _ = load_for(task, str(model_folder), seed=0)
    model.save_pretrained(tmp_path)
    three = infer(Dataset.from_dict({"text": ["a", "b", "c"], "label": ["x", "y", "z"]}))
    with pytest.raises(
        ValueError, match=r"classifier.weight must have .* \(3, 32\); got \(2, 32\)"
    ):
        load_for(three, str(tmp_path), seed=0)


def test_a_lost_side_file_is_refused(model_folder, tmp_path):
    model, _ = load_for(infer(ROWS), str(model_folder), seed=0)
    fewer.save(fewer.attach(model, fewer.LTP()), tmp_path)
    assert not load_for(infer(ROWS), str(tmp_path), seed=0)[1]
    (tmp_path / SIDE_FILE).unlink()
    with pytest.raises(FileNotFoundError, match=SIDE_FILE):
        load_for(infer(ROWS), str(tmp_path), seed=0)


def test_the_same_command_trains_the_same_model_twice(model_folder, reviews, tmp_path):
    recipe = Recipe(
        model=str(model_folder),
        train=str(reviews),
        method="dense",
        rows=16,
        columns={"text": "review", "label": "stars"},
        dense={"epochs": 1},
        schedule={"seed": 7, "batch_size": 8, "precision": "fp32"},
    )
    states = []
    for name in ("first", "second"):
        torch.manual_seed(len(states))  # two processes have drawn other numbers before
        states.append(run(recipe, tmp_path / name).state_dict())
    first, second = states
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())


def test_the_folder_of_a_run_is_refused_as_a_model(model_folder, tmp_path):
    model, _ = load_for(infer(ROWS), str(model_folder), seed=0)
    fewer.save(fewer.attach(model), tmp_path / "run" / "model")
    with pytest.raises(FileNotFoundError, match=r"run.model"):
        load_for(infer(ROWS), str(tmp_path / "run"), seed=0)


@pytest.mark.parametrize("epochs", [-1, float("nan"), float("inf")])
def test_invalid_epochs_are_refused(model_folder, reviews, tmp_path, epochs):
    columns = {"text": "review", "label": "stars"}
    recipe = Recipe(
        model=str(model_folder), train=str(reviews), columns=columns, dense={"epochs": epochs}
    )
    with pytest.raises(ValueError, match="epochs"):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
