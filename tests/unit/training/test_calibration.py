import dataclasses

import pytest
import torch
from datasets import Dataset
from transformers import (
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

import fewer
from fewer import Phase
from fewer.core.learning import CalibrationData
from fewer.core.phase import CALIBRATION
from fewer.hf.attach import running
from fewer.methods.exits import SENTEE, FastBERT, RightTool
from fewer.methods.exits.policy import ExitPolicy
from fewer.training import calibration as module
from fewer.training.calibration import calibrate, collator_for
from fewer.training.fit import fit
from fewer.training.trainer import PhaseTrainer, training_only
from tests.tiny import ragged, tiny, word_tokenizer
from tests.unit.methods.exits.parts import opened, read
from tests.unit.training.synthetic import QUICK, small_model, texts

PHASE = Phase("exits", "compact", "policy", 1, 1e-3, regularise=True, calibrate=True, task=False)
FAST = dataclasses.replace(FastBERT(threshold=0.3, epochs=1), head="linear")


def _calibration_data(model, rows, monkeypatch, *, first=False):
    """Return the data that `calibrate` passes to the policy."""
    calls = []
    monkeypatch.setattr(type(model.bert.fewer.policy), "calibrate", lambda *a: calls.append(a[1:]))
    calibrate(model, PHASE, rows, collator_for(model, word_tokenizer()), first=first)
    ((phase, data),) = calls
    assert phase is PHASE
    assert isinstance(data, CalibrationData)
    assert data.first is first
    return data


def _pad_rows(rows):
    names = ("input_ids", "attention_mask")
    return word_tokenizer().pad({name: rows[name] for name in names}, return_tensors="pt")


@pytest.fixture
def model():
    return opened(FAST, 0.5, layers=4, num_labels=2)


def test_the_flops_ratio_is_of_all_rows_with_decisions_applied(model, monkeypatch):
    rows = texts(150)  # three batches
    data = _calibration_data(model, rows, monkeypatch)
    attached, ratios = fewer.attachment(model), []
    for threshold in (0.0, 0.5, 2.0):
        attached.policy.threshold.fill_(threshold)
        _, trace = read(model, _pad_rows(rows))
        ratios.append(data.flops_ratio())
        assert ratios[-1] == pytest.approx(float(attached.spec.flops_ratio(trace)), rel=1e-5)
    assert ratios[0] > 1.0 > ratios[1] > ratios[2]  # exit heads without exits cost more


def test_the_flops_ratio_is_that_of_inference_and_the_mode_is_restored(model, monkeypatch):
    data = _calibration_data(model, texts(30), monkeypatch)
    ratio = data.flops_ratio()
    model.train()
    soft = dataclasses.replace(PHASE, apply="soften")
    with running(model, soft):
        assert data.flops_ratio() == ratio < 1.0
        assert fewer.attachment(model).phase is soft
    assert model.training
    assert fewer.attachment(model).policy.training


def test_in_calibration_batches_exit_heads_compute_and_no_text_exits(model, monkeypatch):
    rows = texts(150)
    batches = list(_calibration_data(model, rows, monkeypatch).batches())
    assert [len(batch.labels) for batch in batches] == [64, 64, 22]
    for batch in batches:
        assert (batch.phase, batch.step) == (PHASE.in_place("observe"), 0)
        assert [len(output.rows) for output in batch.trace.exit_outputs] == [len(batch.labels)] * 3
        assert all(output.exited is None for output in batch.trace.exit_outputs)
        assert not batch.logits.requires_grad
        loss = torch.nn.functional.cross_entropy(batch.logits, batch.labels)
        assert batch.loss(batch.logits, batch.labels).item() == loss.item()
    labels = torch.cat([batch.labels for batch in batches])
    assert sorted(labels.tolist()) == sorted(rows["labels"])
    assert not fewer.attachment(model).policy.training


def test_calibration_batches_have_no_dropout(model, monkeypatch):
    data = _calibration_data(model, texts(30), monkeypatch)
    model.train()
    first, second = (next(iter(list(data.batches()))) for _ in range(2))
    assert torch.equal(first.logits, second.logits)
    assert torch.equal(first.trace.exit_outputs[0].logits, second.trace.exit_outputs[0].logits)
    assert model.training


def test_rows_of_similar_length_are_in_one_batch(model, monkeypatch):
    batches = list(_calibration_data(model, texts(200), monkeypatch).batches())
    columns = [batch.trace.grid[1] for batch in batches]
    assert columns == sorted(columns)
    assert columns[0] < columns[-1]


def test_calibration_before_the_phase_is_marked_first(model, monkeypatch):
    assert _calibration_data(model, texts(20), monkeypatch, first=True).first


def test_labels_of_tokens_are_padded_where_the_model_tags():
    tokenizer = word_tokenizer()
    tagger = fewer.attach(tiny(task="TokenClassification"), SENTEE())
    assert isinstance(collator_for(tagger, tokenizer), DataCollatorForTokenClassification)
    assert isinstance(collator_for(fewer.attach(tiny()), tokenizer), DataCollatorWithPadding)
    rows = [{"input_ids": [2, 5, 3], "labels": [-100, 1, -100]}, {"input_ids": [2], "labels": [0]}]
    batch = collator_for(tagger, tokenizer)(rows)
    assert batch["labels"].tolist() == [[-100, 1, -100], [0, -100, -100]]


def _fit_numbered(folder, method, monkeypatch, rows=100, **options):
    """Fit on numbered rows; return the numbers of those trained on and calibrated with."""
    data = texts(rows)
    input_ids = [[2, 5 + n % 50, 5 + n // 50, 3] for n in range(rows)]
    masks = [[1] * 4] * rows
    data = data.remove_columns(["input_ids", "attention_mask", "length"])
    data = data.add_column("input_ids", input_ids).add_column("attention_mask", masks)
    data = data.add_column("length", [4] * rows)
    row_numbers = {"trained": set(), "calibrated": set()}
    step, run_batches = Trainer.training_step, module._run_batches

    def number(ids):
        return {(row[1] - 5) + 50 * (row[2] - 5) for row in ids.tolist()}

    def training(self, model, inputs, *args, **kwargs):
        row_numbers["trained"] |= number(inputs["input_ids"])
        return step(self, model, inputs, *args, **kwargs)

    def calibrating(model, batches):
        row_numbers["calibrated"] |= {n for batch in batches for n in number(batch["input_ids"])}
        return run_batches(model, batches)

    monkeypatch.setattr(Trainer, "training_step", training)
    monkeypatch.setattr(module, "_run_batches", calibrating)
    fitted = fit(
        small_model(),
        method,
        data,
        tokenizer=word_tokenizer(),
        output_dir=folder / "run",
        schedule=QUICK,
        **options,
    )
    return fitted, row_numbers


def test_rows_that_calibrate_are_not_trained_on(tmp_path, monkeypatch):
    method = RightTool(epochs=3, target=0.7)
    _, row_numbers = _fit_numbered(tmp_path, method, monkeypatch)
    assert len(row_numbers["calibrated"]) == 10
    assert not row_numbers["trained"] & row_numbers["calibrated"]
    assert len(row_numbers["trained"]) == 90


def test_without_calibration_all_rows_are_trained_on(tmp_path, monkeypatch):
    phase = dataclasses.replace(FAST.phases()[0], calibrate=False, holds_out=False, epochs=3.0)
    fitted, row_numbers = _fit_numbered(tmp_path, FAST, monkeypatch, phases=[phase])
    assert (len(row_numbers["trained"]), row_numbers["calibrated"]) == (100, set())
    assert fewer.attachment(fitted).policy.threshold.item() == 0.0  # the exits were not opened


def test_a_fitted_method_has_open_exits_and_temperatures(tmp_path, monkeypatch):
    fitted, _ = _fit_numbered(tmp_path, RightTool(epochs=1, threshold=0.75), monkeypatch)
    policy = fewer.attachment(fitted).policy
    assert policy.threshold.item() == 0.75
    assert (policy.temperature != 1.0).all()
    loaded = fewer.attachment(fewer.load(tmp_path / "run/model", precision=None)).policy
    assert torch.equal(loaded.temperature, policy.temperature)


def test_a_frozen_phase_leaves_the_model_as_it_was(tmp_path, monkeypatch):
    before = {name: value.clone() for name, value in small_model().state_dict().items()}
    fitted, _ = _fit_numbered(tmp_path, FAST, monkeypatch)
    after = fitted.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    heads = [value for name, value in after.items() if ".fewer.policy.heads" in name]
    assert len(heads) == 4
    assert fewer.attachment(fitted).policy.threshold.item() == pytest.approx(0.3)


def _trainable_names(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_inside_the_block_only_trained_parameters_require_gradients(model):
    policy_names = {name for name, _ in model.named_parameters() if ".fewer.policy." in name}
    all_names = _trainable_names(model)
    for trains, expected in (
        ("policy", policy_names),
        ("model", all_names - policy_names),
        ("all", all_names),
    ):
        with training_only(model, dataclasses.replace(PHASE, trains=trains)):
            assert _trainable_names(model) == expected
        assert _trainable_names(model) == all_names


def test_frozen_parameters_stay_frozen_and_an_error_restores_the_rest(model):
    model.bert.embeddings.requires_grad_(False)
    before = _trainable_names(model)
    with pytest.raises(ZeroDivisionError), training_only(model, PHASE):
        _ = 1 / 0
    assert _trainable_names(model) == before
    with training_only(model, dataclasses.replace(PHASE, trains="all")):
        assert _trainable_names(model) == before


def _trainer(model, phase, folder):
    arguments = TrainingArguments(folder, report_to="none", use_cpu=True, max_steps=1)
    return PhaseTrainer(model=model, args=arguments, phase=phase)


def test_a_frozen_phase_has_no_dropout_and_no_task_loss(model, tmp_path, monkeypatch):
    batches = []
    loss = ExitPolicy.loss
    monkeypatch.setattr(
        ExitPolicy, "loss", lambda policy, batch: batches.append(batch) or loss(policy, batch)
    )
    trainer = _trainer(model, PHASE, tmp_path)
    batch = dict(ragged(model)) | {"labels": torch.tensor([0, 1, 1, 1, 0])}
    losses = [trainer.compute_loss(model.train(), dict(batch)) for _ in range(2)]
    assert torch.equal(*losses)
    assert all(output.exited is None for output in batches[0].trace.exit_outputs)
    policy_loss = loss(fewer.attachment(model).policy, batches[0])
    assert losses[0].item() == policy_loss.item()
    with_task = _trainer(model, dataclasses.replace(PHASE, task=True), tmp_path)
    task_loss = torch.nn.functional.cross_entropy(batches[0].logits, batch["labels"])
    total = with_task.compute_loss(model.train(), dict(batch))
    assert total.item() == pytest.approx(policy_loss.item() + task_loss.item(), rel=1e-6)


def test_long_texts_need_fewer_rows_for_calibration():
    assert module.sample_size([50] * 512, CALIBRATION) == 512
    assert module.sample_size([2048] * 512, CALIBRATION) == 64
    assert module.sample_size([10**6, 5], CALIBRATION) == 1
    lengths = [700, 900] * 256
    assert sum(lengths[: module.sample_size(lengths, CALIBRATION)]) <= module.SAMPLE_TOKENS


def test_a_policy_that_reads_its_sample_once_gets_a_larger_one():
    once = dataclasses.replace(CALIBRATION, reads_once=True)
    assert module.sample_size([2048] * 1000, once) == 512
    rows = Dataset.from_dict({"input_ids": [[1, 2]] * 5000})
    order = list(reversed(range(5000)))
    assert len(module.draw_sample(rows, order, CALIBRATION)) == 512
    assert len(module.draw_sample(rows, order, once)) == 4096
