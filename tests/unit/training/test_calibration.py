import dataclasses

import pytest
import torch
from transformers import (
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

import fewer
from fewer import Phase
from fewer.core.policy import CalibrationData
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


def _rehearsed(model, rows, monkeypatch, *, first=False):
    """Return what `calibrate` hands to the policy."""
    handed = []
    monkeypatch.setattr(type(model.bert.fewer.policy), "calibrate", lambda *a: handed.append(a[1:]))
    calibrate(model, PHASE, rows, collator_for(model, word_tokenizer()), first=first)
    ((phase, rehearsal),) = handed
    assert phase is PHASE
    assert isinstance(rehearsal, CalibrationData)
    assert rehearsal.first is first
    return rehearsal


def _padded(rows):
    names = ("input_ids", "attention_mask")
    return word_tokenizer().pad({name: rows[name] for name in names}, return_tensors="pt")


@pytest.fixture
def model():
    return opened(FAST, 0.5, layers=4, num_labels=2)


def test_the_share_is_of_all_rows_with_decisions_carried_out(model, monkeypatch):
    rows = texts(150)  # three batches
    rehearsal = _rehearsed(model, rows, monkeypatch)
    own, shares = fewer.attachment(model), []
    for threshold in (0.0, 0.5, 2.0):
        own.policy.threshold.fill_(threshold)
        _, trace = read(model, _padded(rows))
        shares.append(rehearsal.share())
        assert shares[-1] == pytest.approx(float(own.shape.share(trace)), rel=1e-5)
    assert shares[0] > 1.0 > shares[1] > shares[2]  # heads that let nobody leave cost more


def test_the_share_is_measured_as_at_inference_and_the_mode_comes_back(model, monkeypatch):
    rehearsal = _rehearsed(model, texts(30), monkeypatch)
    wanted = rehearsal.share()
    model.train()
    fewer.attachment(model).apply_in_training = "soften"
    assert rehearsal.share() == wanted < 1.0
    assert model.training
    assert fewer.attachment(model).policy.training
    assert fewer.attachment(model).apply_in_training == "soften"


def test_in_lessons_exits_speak_and_nobody_leaves(model, monkeypatch):
    rows = texts(150)
    lessons = list(_rehearsed(model, rows, monkeypatch).lessons())
    assert [len(one.labels) for one in lessons] == [64, 64, 22]
    for one in lessons:
        assert (one.phase, one.step) == (PHASE, 0)
        assert [len(said.rows) for said in one.trace.exit_outputs] == [len(one.labels)] * 3
        assert all(said.final is None for said in one.trace.exit_outputs)
        assert not one.logits.requires_grad
        wanted = torch.nn.functional.cross_entropy(one.logits, one.labels)
        assert one.loss(one.logits, one.labels).item() == wanted.item()
    labels = torch.cat([one.labels for one in lessons])
    assert sorted(labels.tolist()) == sorted(rows["labels"])
    assert not fewer.attachment(model).policy.training


def test_lessons_are_read_without_dropout(model, monkeypatch):
    rehearsal = _rehearsed(model, texts(30), monkeypatch)
    model.train()
    one, other = (next(iter(list(rehearsal.lessons()))) for _ in range(2))
    assert torch.equal(one.logits, other.logits)
    assert torch.equal(one.trace.exit_outputs[0].logits, other.trace.exit_outputs[0].logits)
    assert model.training


def test_rows_of_like_length_are_read_together(model, monkeypatch):
    lessons = list(_rehearsed(model, texts(200), monkeypatch).lessons())
    columns = [one.trace.grid[1] for one in lessons]
    assert columns == sorted(columns)
    assert columns[0] < columns[-1]


def test_before_the_phase_is_said_so(model, monkeypatch):
    assert _rehearsed(model, texts(20), monkeypatch, first=True).first


def test_labels_of_tokens_are_padded_where_the_model_tags():
    tokenizer = word_tokenizer()
    tagger = fewer.attach(tiny(task="TokenClassification"), SENTEE())
    assert isinstance(collator_for(tagger, tokenizer), DataCollatorForTokenClassification)
    assert isinstance(collator_for(fewer.attach(tiny()), tokenizer), DataCollatorWithPadding)
    rows = [{"input_ids": [2, 5, 3], "labels": [-100, 1, -100]}, {"input_ids": [2], "labels": [0]}]
    batch = collator_for(tagger, tokenizer)(rows)
    assert batch["labels"].tolist() == [[-100, 1, -100], [0, -100, -100]]


def _fitted(folder, method, monkeypatch, rows=100, **options):
    """Fit on rows whose second word is their number; return what trained and what rehearsed."""
    data = texts(rows)
    numbered = [[2, 5 + n % 50, 5 + n // 50, 3] for n in range(rows)]
    ones = [[1] * 4] * rows
    data = data.remove_columns(["input_ids", "attention_mask", "length"])
    data = data.add_column("input_ids", numbered).add_column("attention_mask", ones)
    data = data.add_column("length", [4] * rows)
    seen = {"trained": set(), "rehearsed": set()}
    step, passes = Trainer.training_step, module._run_batches

    def number(ids):
        return {(row[1] - 5) + 50 * (row[2] - 5) for row in ids.tolist()}

    def training(self, model, inputs, *args, **kwargs):
        seen["trained"] |= number(inputs["input_ids"])
        return step(self, model, inputs, *args, **kwargs)

    def rehearsing(model, batches):
        seen["rehearsed"] |= {n for batch in batches for n in number(batch["input_ids"])}
        return passes(model, batches)

    monkeypatch.setattr(Trainer, "training_step", training)
    monkeypatch.setattr(module, "_run_batches", rehearsing)
    fitted = fit(
        small_model(),
        method,
        data,
        tokenizer=word_tokenizer(),
        output_dir=folder / "run",
        schedule=QUICK,
        **options,
    )
    return fitted, seen


def test_rows_that_calibrate_are_not_trained_on(tmp_path, monkeypatch):
    method = RightTool(epochs=3, target=0.7)
    _, seen = _fitted(tmp_path, method, monkeypatch)
    assert len(seen["rehearsed"]) == 10
    assert not seen["trained"] & seen["rehearsed"]
    assert len(seen["trained"]) == 90


def test_without_calibration_all_rows_are_trained_on(tmp_path, monkeypatch):
    phase = dataclasses.replace(FAST.phases()[0], calibrate=False, holds_out=False, epochs=3.0)
    fitted, seen = _fitted(tmp_path, FAST, monkeypatch, phases=[phase])
    assert (len(seen["trained"]), seen["rehearsed"]) == (100, set())
    assert fewer.attachment(fitted).policy.threshold.item() == 0.0  # nobody opened the exits


def test_a_fitted_method_has_open_exits_and_temperatures(tmp_path, monkeypatch):
    fitted, _ = _fitted(tmp_path, RightTool(epochs=1, threshold=0.75), monkeypatch)
    policy = fewer.attachment(fitted).policy
    assert policy.threshold.item() == 0.75
    assert (policy.temperature != 1.0).all()
    loaded = fewer.attachment(fewer.load(tmp_path / "run/model", precision=None)).policy
    assert torch.equal(loaded.temperature, policy.temperature)


def test_a_frozen_phase_leaves_the_model_as_it_was(tmp_path, monkeypatch):
    before = {name: value.clone() for name, value in small_model().state_dict().items()}
    fitted, _ = _fitted(tmp_path, FAST, monkeypatch)
    after = fitted.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    heads = [value for name, value in after.items() if ".fewer.policy.heads" in name]
    assert len(heads) == 4
    assert fewer.attachment(fitted).policy.threshold.item() == pytest.approx(0.3)


def _required(model):
    return {name for name, one in model.named_parameters() if one.requires_grad}


def test_inside_the_block_only_what_the_phase_trains_requires_a_gradient(model):
    own = {name for name, _ in model.named_parameters() if ".fewer.policy." in name}
    everything = _required(model)
    for trains, wanted in (
        ("policy", own),
        ("model", everything - own),
        ("all", everything),
    ):
        with training_only(model, dataclasses.replace(PHASE, trains=trains)):
            assert _required(model) == wanted
        assert _required(model) == everything


def test_what_was_frozen_before_stays_frozen_and_an_error_thaws_the_rest(model):
    model.bert.embeddings.requires_grad_(False)
    before = _required(model)
    with pytest.raises(ZeroDivisionError), training_only(model, PHASE):
        _ = 1 / 0
    assert _required(model) == before
    with training_only(model, dataclasses.replace(PHASE, trains="all")):
        assert _required(model) == before


def _trainer(model, phase, folder):
    arguments = TrainingArguments(folder, report_to="none", use_cpu=True, max_steps=1)
    return PhaseTrainer(model=model, args=arguments, phase=phase)


def test_a_frozen_phase_reads_without_dropout_and_leaves_the_task_out(model, tmp_path, monkeypatch):
    told = []
    loss = ExitPolicy.loss
    monkeypatch.setattr(ExitPolicy, "loss", lambda own, one: told.append(one) or loss(own, one))
    trainer = _trainer(model, PHASE, tmp_path)
    batch = dict(ragged(model)) | {"labels": torch.tensor([0, 1, 1, 1, 0])}
    found = [trainer.compute_loss(model.train(), dict(batch)) for _ in range(2)]
    assert torch.equal(*found)
    assert all(said.final is None for said in told[0].trace.exit_outputs)
    wanted = loss(fewer.attachment(model).policy, told[0])
    assert found[0].item() == wanted.item()
    with_task = _trainer(model, dataclasses.replace(PHASE, task=True), tmp_path)
    task = torch.nn.functional.cross_entropy(told[0].logits, batch["labels"])
    both = with_task.compute_loss(model.train(), dict(batch))
    assert both.item() == pytest.approx(wanted.item() + task.item(), rel=1e-6)


def test_of_long_texts_fewer_are_enough_to_fit_a_policy_to():
    assert module.sample_size([50] * 512) == 512
    assert module.sample_size([2048] * 512) == 64
    assert module.sample_size([10**6, 5]) == 1
    lengths = [700, 900] * 256
    assert sum(lengths[: module.sample_size(lengths)]) <= module.SAMPLE_TOKENS
