import pytest
import torch
from datasets import Dataset

import fewer
from fewer.cli.recipe import load_for
from fewer.config import SIDE_FILE
from fewer.tasks.classification import infer

ROWS = Dataset.from_dict({"text": ["good film", "bad film"], "label": ["up", "down"]})


def test_the_seed_draws_the_new_head_whatever_was_drawn_before(model_folder):
    task, states = infer(ROWS), []
    for seed, before in ((7, 1), (7, 2), (8, 1)):
        torch.manual_seed(before)
        model, is_new = load_for(task, str(model_folder), seed=seed)
        assert is_new
        states.append(model.state_dict())
    first, same, other = states
    assert all(torch.equal(same[name], tensor) for name, tensor in first.items())
    different = {name for name, tensor in first.items() if not torch.equal(other[name], tensor)}
    assert different == {"classifier.weight"}


def test_a_head_for_other_labels_is_refused_with_shapes(model_folder, tmp_path):
    task = infer(ROWS)
    model, _ = load_for(task, str(model_folder), seed=0)
    model.save_pretrained(tmp_path)
    three = infer(Dataset.from_dict({"text": ["a", "b", "c"], "label": ["x", "y", "z"]}))
    with pytest.raises(ValueError, match=r"classifier.weight has shape \(2, 32\), wanted \(3, 32"):
        load_for(three, str(tmp_path), seed=0)


def test_a_lost_side_file_is_missed_when_training_goes_on(model_folder, tmp_path):
    model, _ = load_for(infer(ROWS), str(model_folder), seed=0)
    fewer.save(fewer.attach(model, fewer.LTP()), tmp_path)
    assert not load_for(infer(ROWS), str(tmp_path), seed=0)[1]
    (tmp_path / SIDE_FILE).unlink()
    with pytest.raises(FileNotFoundError, match=SIDE_FILE):
        load_for(infer(ROWS), str(tmp_path), seed=0)
