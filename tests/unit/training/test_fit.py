import dataclasses
import json
import math
from itertools import pairwise

import peft
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoTokenizer, Trainer

import fewer
from fewer import LTP, Dense
from fewer._files.locking import LOCK_FILE
from fewer.core.phase import FINE_TUNING, INFERENCE
from fewer.methods.pruning.ltp import LTPPolicy
from fewer.training.fit import Schedule, dense_phase
from tests.contract.table import read
from tests.tiny import ragged, tiny
from tests.unit.training.synthetic import (
    METHOD,
    QUICK,
    ROWS,
    STEPS,
    accuracy,
    run,
    share,
    small_model,
    texts,
)

THRESHOLD = "bert.fewer.policy.threshold"


def _weights(folder):
    return load_file(folder / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """One run of all three phases, and its folder."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("fit") / "run"
    return run(folder), folder


def test_phases_are_kept_whole_in_order_and_checkpoints_are_cleared(fitted):
    _, folder = fitted
    assert sorted(place.name for place in folder.iterdir()) == [
        LOCK_FILE,
        "0-dense",
        "1-soft",
        "2-hard",
        "fit.json",
        "model",
    ]
    for name in ("0-dense", "1-soft", "2-hard"):
        assert [place.name for place in (folder / name).iterdir()] == ["model"]


def test_the_result_is_attached_in_eval_mode_and_prunes_tokens(fitted):
    model, _ = fitted
    attached = fewer.attachment(model)
    assert not model.training
    assert attached.method == METHOD
    assert (attached.phase, attached.apply_name) == (None, None)  # those of training are over
    assert [attached.phase_of(training=mode) for mode in (True, False)] == [FINE_TUNING, INFERENCE]
    assert (FINE_TUNING.apply, INFERENCE.apply) == ("compact", "compact")
    assert share(model, texts(40, seed=1)) < 0.95


def test_the_result_is_saved_with_its_tokenizer(fitted):
    model, folder = fitted
    loaded, batch = fewer.load(folder / "model", precision=None), ragged(tiny())
    assert torch.equal(read(loaded, batch)[0], read(model, batch)[0])
    assert AutoTokenizer.from_pretrained(folder / "model")("w1 w2")["input_ids"] == [2, 6, 7, 3]


def test_the_task_is_learned(tmp_path):
    method = dataclasses.replace(METHOD, target=0.6, epochs=(2, 2))
    rows = texts(160)
    model = run(tmp_path / "run", method=method, train=rows, dense=dense_phase(6.0, 2e-3))
    assert accuracy(model, texts(200, seed=9)) > 0.8
    assert share(model, rows) == pytest.approx(0.6, abs=0.02)


def test_thresholds_move_in_the_soft_phase_only(fitted):
    _, folder = fitted
    soft, hard = _weights(folder / "1-soft"), _weights(folder / "2-hard")
    start = METHOD.final_threshold * torch.tensor([1.0, 2.0]) / 3
    assert THRESHOLD not in _weights(folder / "0-dense")
    assert (soft[THRESHOLD] - start).abs().min() > 1e-3
    assert torch.equal(soft[THRESHOLD], hard[THRESHOLD])


def test_the_model_trains_in_every_phase(fitted):
    _, folder = fitted
    states = [_weights(folder / name) for name in ("0-dense", "1-soft", "2-hard")]
    for before, after in pairwise(states):
        for name in ("classifier.weight", "bert.encoder.layer.0.attention.self.query.weight"):
            assert not torch.equal(before[name], after[name])


def test_every_parameter_may_train_again_afterwards(fitted):
    model, _ = fitted
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_policys_loss_is_added_in_the_soft_phase_only(tmp_path, monkeypatch):
    soft_keys, loss = [], LTPPolicy.loss

    def record_keys(policy, batch):
        soft_keys.append(batch.trace.layers[-1].keys.detach())
        return loss(policy, batch)

    monkeypatch.setattr(LTPPolicy, "loss", record_keys)
    run(tmp_path / "run")
    assert len(soft_keys) == STEPS
    assert any(
        (keys != keys.round()).any() for keys in soft_keys
    )  # sums of gates: pruning was soft


def test_frozen_parameters_stay_frozen_through_all_phases(tmp_path):
    model = small_model()
    frozen = ["bert.embeddings.word_embeddings.weight", "bert.encoder.layer.1.output.dense.weight"]
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    before = {name: model.get_parameter(name).clone() for name in frozen}
    fitted = run(tmp_path / "run", model)
    for name in frozen:
        assert torch.equal(fitted.get_parameter(name), before[name])
        assert not fitted.get_parameter(name).requires_grad
    assert fitted.classifier.weight.requires_grad


def test_thresholds_frozen_by_the_user_are_trained_in_the_soft_phase_and_frozen_again(tmp_path):
    model = fewer.attach(small_model(), METHOD)
    fewer.attachment(model).policy.threshold.requires_grad_(False)
    fitted = run(tmp_path / "run", model, dense=None)
    assert not fewer.attachment(fitted).policy.threshold.requires_grad


@pytest.mark.parametrize("target", [0.65, 0.8])
def test_a_target_is_met_on_the_training_texts(tmp_path, target):
    method = dataclasses.replace(METHOD, target=target, strength=1.0)
    rows = texts(ROWS)
    fitted = run(tmp_path / "run", method=method)
    assert share(fitted, rows) == pytest.approx(target, abs=0.02)
    assert share(fewer.load(tmp_path / "run" / "1-soft" / "model"), rows) == pytest.approx(
        target, abs=0.005
    )


def test_dropout_is_set_for_training_only(tmp_path, monkeypatch):
    model, probabilities, step = small_model(hidden_dropout_prob=0.3), set(), Trainer.training_step

    def record_dropout(self, model, *args, **kwargs):
        probabilities.update(m.p for m in model.modules() if isinstance(m, torch.nn.Dropout))
        return step(self, model, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", record_dropout)
    run(tmp_path / "run", model, schedule=dataclasses.replace(QUICK, dropout=0.0))
    assert probabilities == {0.0}
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.1, 0.3}


def test_accumulated_batches_are_steps_of_their_texts_together(tmp_path, monkeypatch):
    losses, training_step = [], Trainer.training_step

    def noting(*args, **kwargs):
        losses.append(float(training_step(*args, **kwargs)))
        return losses[-1] * torch.ones(())

    monkeypatch.setattr(Trainer, "training_step", noting)
    whole = dataclasses.replace(QUICK, dropout=0.0)
    run(tmp_path / "whole", method=Dense(), schedule=whole)
    expected, losses[:] = list(losses), []
    halves = dataclasses.replace(whole, batch_size=8, gradient_accumulation_steps=2)
    run(tmp_path / "halves", method=Dense(), schedule=halves)
    pairs = [first + second for first, second in zip(losses[::2], losses[1::2], strict=True)]
    assert pairs == pytest.approx(expected, abs=3e-3)  # Adam enlarges what rounding differs in
    assert pairs[0] == pytest.approx(expected[0], rel=1e-6)
    settings = json.loads((tmp_path / "whole" / "fit.json").read_text())["schedule"]
    assert "gradient_accumulation_steps" not in settings  # as in runs that were begun before


def test_the_same_seed_gives_the_same_model_and_another_another(tmp_path):
    states = []
    for number, seed in enumerate((1, 1, 2)):
        schedule = dataclasses.replace(QUICK, seed=seed)
        run(tmp_path / str(number), schedule=schedule, dense=dense_phase(1, 1e-3), method=Dense())
        states.append(_weights(tmp_path / str(number)))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["classifier.weight"], states[2]["classifier.weight"])


def test_without_a_method_there_is_the_dense_phase_alone(tmp_path):
    fitted = run(tmp_path / "run", method=Dense())
    assert fewer.attachment(fitted).method == Dense()
    assert not (tmp_path / "run" / "1-soft").exists()


def test_phases_replace_those_of_the_method(tmp_path):
    hard = METHOD.phases()[1]
    fitted = run(tmp_path / "run", dense=None, phases=[dataclasses.replace(hard, name="only")])
    assert (tmp_path / "run" / "0-only").is_dir()
    start = METHOD.final_threshold * torch.tensor([1.0, 2.0]) / 3
    assert torch.equal(fewer.attachment(fitted).policy.threshold.detach(), start)


def test_kernel_and_protected_ids_are_kept_through_all_phases(tmp_path):
    model = fewer.attach(small_model(), kernel="reference", protect=(3,))
    settings = fewer.attachment(run(tmp_path / "run", model)).settings
    assert (settings.method, settings.kernel, settings.protect) == (METHOD, "reference", (3,))


def test_training_continues_from_attached_thresholds(tmp_path):
    model = fewer.attach(small_model(), METHOD)
    with torch.no_grad():
        fewer.attachment(model).policy.threshold.fill_(0.07)
    fitted = run(tmp_path / "run", model, dense=None, phases=METHOD.phases()[1:])
    assert fewer.attachment(fitted).policy.threshold.tolist() == pytest.approx([0.07, 0.07])


def test_bf16_trains_and_leaves_fp32_inference_behind(tmp_path):
    fitted = run(tmp_path / "run", schedule=dataclasses.replace(QUICK, precision="bf16"))
    batch = ragged(tiny())
    assert fitted(**batch).logits.dtype == torch.float32
    assert torch.equal(
        read(fitted, batch)[0], read(fewer.load(tmp_path / "run/model", precision=None), batch)[0]
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_are_trained_and_saved_in_fp32(tmp_path, caplog, dtype):
    model = small_model().to(dtype)
    caplog.set_level("INFO", logger="fewer")
    schedule = dataclasses.replace(QUICK, precision="bf16")
    fitted = run(tmp_path / "run", model, schedule=schedule)
    assert "float32" in caplog.text
    assert {values.dtype for values in _weights(tmp_path / "run").values()} == {torch.float32}
    assert fitted.dtype is torch.float32
    again = small_model().to(dtype)
    run(tmp_path / "run", again, schedule=schedule, resume=True)  # it is the same run


@pytest.mark.parametrize("name", ["roberta", "distilbert", "albert", "modernbert"])
def test_every_architecture_goes_through_the_phases(tmp_path, name):
    model = tiny(name, num_labels=2, initializer_range=0.1, pad_token_id=0).train()
    fitted = run(tmp_path / "run", model)
    assert 0.3 < share(fitted, texts(60, seed=4)) < 1.0


def test_an_empty_training_set_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="train must have rows"):
        run(tmp_path / "run", train=texts(0))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ([{"text": "a", "label": 1}], r"got a list.*Dataset\.from_list.*encode"),
        ({"train": []}, r"got a dict.*data\['train'\]"),
        (None, "got a NoneType.*encode"),
        (Dataset.from_dict({"text": ["a"], "label": [1]}), "got text, label.*encode"),
    ],
)
def test_rows_that_are_not_encoded_are_refused_with_the_fix(tmp_path, train, message):
    with pytest.raises((TypeError, ValueError), match=f"^train must .*{message}"):
        fewer.fit(small_model(), fewer.LTP(), train, tokenizer=None, output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("bad", [[1, None], [1.0, float("nan")], [[0, 1], [0, None]]], ids=str)
def test_a_missing_label_is_refused_before_anything_is_written(tmp_path, bad):
    columns = {"input_ids": [[2, 3]] * 2, "attention_mask": [[1, 1]] * 2, "length": [2, 2]}
    with pytest.raises(ValueError, match=r"'labels', row 1 .*missing"):
        run(tmp_path / "run", train=Dataset.from_dict({**columns, "labels": bad}))
    assert not (tmp_path / "run").exists()


def test_adapters_are_refused_before_anything_is_written(tmp_path):
    adapted = peft.get_peft_model(small_model(), peft.LoraConfig(target_modules=["query"], r=2))
    with pytest.raises(ValueError, match=r"^model must be .*got a PeftModel.*merge_and_unload"):
        run(tmp_path / "run", adapted)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", -1),
        ("epochs", math.nan),
        ("learning_rate", math.inf),
        ("learning_rate", -1e-5),
        ("policy_learning_rate", (None, math.nan)),
    ],
)
def test_a_phase_out_of_range_is_refused_before_anything_is_written(tmp_path, name, value):
    phase = dataclasses.replace(dense_phase(), **{name: value})
    with pytest.raises(ValueError, match=name.removeprefix("policy_")):
        run(tmp_path / "run", dense=phase)
    assert not (tmp_path / "run").exists()
    if name != "policy_learning_rate":
        with pytest.raises(ValueError, match=name):
            dense_phase(**{name: value})


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"save_every": 0}, "save_every"),
        ({"log_every": -1}, "log_every"),
        ({"warmup": 1.0}, "warmup"),
        ({"warmup": -0.1}, "warmup"),
        ({"warmup": math.nan}, "warmup"),
        ({"weight_decay": math.inf}, "weight_decay"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": math.nan}, "dropout"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
    ],
)
def test_a_schedule_out_of_range_is_refused(settings, name):
    with pytest.raises(ValueError, match=rf"^{name} must be .*got {settings[name]}"):
        Schedule(**settings)


def test_the_published_soft_rule_trains_too(tmp_path):
    method = LTP(
        final_threshold=0.05,
        temperature=1e-2,
        soft_rule="output",
        reference_length=16,
        learning_rates=(1e-3, 1e-2, 1e-3),
    )
    fitted = run(tmp_path / "run", method=method)
    start = 0.05 * torch.tensor([1.0, 2.0]) / 3
    assert (fewer.attachment(fitted).policy.threshold.detach() > start).all()
