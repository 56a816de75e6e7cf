"""A run that was killed and resumed ends at the weights of an uninterrupted run."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertForSequenceClassification, Trainer

from fewer._files.manifest import MANIFEST, write_manifest
from fewer.hf.side_file import method_to
from fewer.training import fit as module
from fewer.training.fit import dense_phase
from tests.unit.training.synthetic import METHOD, QUICK, ROWS, STEPS, run, small_model, texts


def _states(folder):
    return {
        place.name: load_file(place / "model" / "model.safetensors")
        for place in sorted(folder.glob("?-*"))
    }


def _assert_same(states, expected):
    assert states.keys() == expected.keys()
    for phase, state in expected.items():
        for name, value in state.items():
            assert torch.equal(states[phase][name], value), (phase, name)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("resume") / "whole"
    run(folder)
    return _states(folder)


@pytest.fixture
def steps(monkeypatch):
    """Count the training steps; the one numbered `steps.kill` is interrupted."""

    class Steps(list):
        kill = None

    training_steps, step = Steps(), Trainer.training_step

    def counting(self, *args, **kwargs):
        if len(training_steps) == training_steps.kill:
            raise KeyboardInterrupt
        training_steps.append(self.state.global_step)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", counting)
    return training_steps


def _killed(steps, folder, at, **options):
    """Start a run, and kill it before its step number `at`."""
    steps.kill = at
    with pytest.raises(KeyboardInterrupt):
        run(folder, **options)
    steps.kill = None
    steps.clear()


# before the first checkpoint, after it, at the seam of two phases, in the last
@pytest.mark.parametrize("at", [1, 3, STEPS, 2 * STEPS + 3])
def test_a_run_killed_anywhere_resumes_to_the_same_weights(tmp_path, steps, uninterrupted, at):
    folder = tmp_path / "run"
    _killed(steps, folder, at)
    run(folder, resume=True)
    _assert_same(_states(folder), uninterrupted)
    assert len(steps) == 3 * STEPS - at + (at % STEPS) % QUICK.save_every


def test_a_run_killed_twice_resumes_to_the_same_weights(tmp_path, steps, uninterrupted):
    folder = tmp_path / "run"
    _killed(steps, folder, 3)
    _killed(steps, folder, 6, resume=True)
    run(folder, resume=True)
    _assert_same(_states(folder), uninterrupted)


def test_a_phase_killed_before_its_manifest_is_written_is_not_trained_again(
    tmp_path, steps, uninterrupted, monkeypatch
):
    folder, write_manifest = tmp_path / "run", module.write_manifest

    def killed(place):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_manifest", killed)
    with pytest.raises(KeyboardInterrupt):
        run(folder)
    monkeypatch.setattr(module, "write_manifest", write_manifest)
    steps.clear()
    run(folder, resume=True)
    _assert_same(_states(folder), uninterrupted)
    assert len(steps) <= 2 * STEPS + 1  # transformers takes one step more, at a rate of 0


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.safetensors", lambda content: content[:-1] + bytes([content[-1] ^ 1])),
        ("optimizer.pt", None),
        ("trainer_state.json", lambda content: content[: len(content) // 2]),
        (MANIFEST, None),
    ],
)
def test_a_damaged_checkpoint_is_skipped(tmp_path, steps, uninterrupted, name, damage):
    folder = tmp_path / "run"
    _killed(steps, folder, STEPS + 4)  # checkpoints 2 and 4 of the soft phase are there
    file = folder / "1-soft" / "checkpoint-4" / name
    content = file.read_bytes()
    file.unlink()
    if damage is not None:
        file.write_bytes(damage(content))
    run(folder, resume=True)
    assert steps[:3] == [2, 3, 4]
    _assert_same(_states(folder), uninterrupted)


def test_a_damaged_phase_is_trained_again(tmp_path, steps, uninterrupted):
    folder = tmp_path / "run"
    _killed(steps, folder, STEPS + 1)
    (folder / "0-dense" / "model" / "config.json").unlink()
    run(folder, resume=True)
    assert len(steps) == 3 * STEPS
    _assert_same(_states(folder), uninterrupted)


def test_a_finished_run_is_opened_without_training(tmp_path, steps):
    first = run(tmp_path / "run")
    steps.clear()
    second = run(tmp_path / "run", resume=True)
    assert steps == []
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value)


def test_frozen_parameters_stay_frozen_after_a_resume(tmp_path, steps):
    def frozen_model():
        model = small_model()
        model.bert.embeddings.requires_grad_(False)
        return model

    expected = frozen_model().bert.embeddings.word_embeddings.weight
    _killed(steps, tmp_path / "run", STEPS + 1, model=frozen_model())
    fitted = run(tmp_path / "run", frozen_model(), resume=True)
    assert torch.equal(fitted.bert.embeddings.word_embeddings.weight, expected)
    assert not fitted.bert.embeddings.word_embeddings.weight.requires_grad


def test_a_target_survives_a_resume(tmp_path, steps):
    method = dataclasses.replace(METHOD, target=0.6)
    run(tmp_path / "whole", method=method)
    steps.clear()
    _killed(steps, tmp_path / "run", STEPS + 3, method=method)
    run(tmp_path / "run", method=method, resume=True)
    _assert_same(_states(tmp_path / "run"), _states(tmp_path / "whole"))


def test_a_folder_that_holds_a_run_is_refused_unless_it_is_resumed(tmp_path, steps):
    _killed(steps, tmp_path / "run", 1)
    with pytest.raises(ValueError, match=r"^output_dir .*resume=True"):
        run(tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "differing"),
    [
        ({"method": dataclasses.replace(METHOD, strength=0.5)}, "method"),
        ({"schedule": dataclasses.replace(QUICK, seed=1)}, "schedule"),
        ({"dense": dense_phase(2.0, 5e-3)}, "phases"),
        ({"dense": None}, "phases"),
        ({"train": texts(ROWS - 1)}, "data, rows"),
        ({"train": texts(ROWS - 1), "dense": None}, "data, phases, rows"),
        ({"train": texts(ROWS).select(range(ROWS - 1, -1, -1))}, "data"),
    ],
)
def test_another_run_is_not_resumed(tmp_path, steps, options, differing):
    _killed(steps, tmp_path / "run", 1)
    with pytest.raises(ValueError, match=f"^output_dir .*whose {differing} differ"):
        run(tmp_path / "run", resume=True, **options)


def test_resuming_an_empty_folder_starts_a_run(tmp_path, steps, uninterrupted):
    run(tmp_path / "run", resume=True)
    assert len(steps) == 3 * STEPS
    _assert_same(_states(tmp_path / "run"), uninterrupted)


def test_the_run_file_holds_the_settings_of_the_run(tmp_path, steps):
    _killed(steps, tmp_path / "run", 0)
    note = json.loads((tmp_path / "run" / "fit.json").read_text())
    assert note["method"] == method_to(METHOD) | {
        "args": json.loads(json.dumps(method_to(METHOD)["args"]))
    }
    assert [phase["name"] for phase in note["phases"]] == ["dense", "soft", "hard"]
    assert (note["rows"], note["schedule"]["seed"]) == (ROWS, 42)


def _legacy_model(folder):
    """Load a BERT whose checkpoint names its norms gamma and beta, as the first ones did."""
    small_model().save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    for name in list(weights):
        legacy_name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        weights[legacy_name.replace("LayerNorm.bias", "LayerNorm.beta")] = weights.pop(name)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return BertForSequenceClassification.from_pretrained(folder).train()


@pytest.mark.parametrize("at", [3, STEPS + 3])
def test_a_base_model_with_norms_of_old_names_resumes_to_the_same_end(
    tmp_path, steps, uninterrupted, at
):
    base = tmp_path / "base"
    _killed(steps, tmp_path / "run", at, model=_legacy_model(base))
    assert "bert.embeddings.LayerNorm.gamma" in load_file(base / "model.safetensors")
    run(tmp_path / "run", _legacy_model(base), resume=True)
    _assert_same(_states(tmp_path / "run"), uninterrupted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("classifier.bias"), "missing: classifier.bias"),
        (lambda weights: weights.update(extra=torch.ones(1)), "unexpected: extra"),
        (
            lambda weights: weights.update({"classifier.bias": torch.ones(5)}),
            "of another shape: classifier.bias",
        ),
    ],
)
def test_a_checkpoint_with_other_weights_is_refused_by_file_and_key(
    tmp_path, steps, change, message
):
    _killed(steps, tmp_path / "run", 3)
    checkpoint = tmp_path / "run" / "0-dense" / "checkpoint-2"
    weights = load_file(checkpoint / "model.safetensors")
    change(weights)
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    write_manifest(checkpoint)
    with pytest.raises(ValueError, match=f"checkpoint-2.model.safetensors .*{message}"):
        run(tmp_path / "run", resume=True)
