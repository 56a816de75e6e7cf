import pytest
import torch
from transformers import TrainingArguments

import fewer
from fewer import LTP, Phase
from fewer.hf.attach import attachment, running
from fewer.methods.attention import DeFormer
from fewer.methods.attention.deformer import DeFormerPolicy
from fewer.methods.pruning import BlockSkim
from fewer.methods.pruning.block_skim import BlockSkimPolicy
from fewer.methods.registry import METHODS
from fewer.training.trainer import PhaseTrainer, parameter_groups, teacher_of, training_only
from tests.batches import training_batch
from tests.tiny import ragged, tiny


def _phase(trains="all", **options):
    settings = {"apply": "soften", "epochs": 1, "learning_rate": 1e-3} | options
    return Phase(name="any", trains=trains, **settings)


@pytest.fixture
def model():
    return fewer.attach(tiny(), LTP(final_threshold=0.2, temperature=0.1, strength=0.5))


def _names(model, group):
    ids = {id(parameter) for parameter in group["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in ids}


def test_every_parameter_is_in_one_group(model):
    groups = parameter_groups(model, _phase(policy_learning_rate=0.1), 0.01)
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(listed) == sorted(map(id, model.parameters()))


def test_matrices_decay_and_nothing_else_does(model):
    matrices, vectors, learned = parameter_groups(model, _phase(policy_learning_rate=0.1), 0.01)
    assert [group["weight_decay"] for group in (matrices, vectors, learned)] == [0.01, 0, 0]
    assert {parameter.ndim for parameter in matrices["params"]} == {2}
    assert {parameter.ndim for parameter in vectors["params"]} == {1}
    assert _names(model, learned) == {"bert.fewer.policy.threshold"}


@pytest.mark.parametrize(("rate", "expected"), [(0.1, 0.1), (None, 1e-3)])
def test_the_policy_has_its_own_rate_or_that_of_the_model(model, rate, expected):
    *model_groups, policy_group = parameter_groups(model, _phase(policy_learning_rate=rate), 0.01)
    assert policy_group["lr"] == expected
    assert all("lr" not in group for group in model_groups)


def test_a_phase_of_the_model_leaves_the_policy_alone(model):
    with training_only(model, _phase("model")):
        groups = parameter_groups(model, _phase("model"), 0.01)
    assert not any("threshold" in name for group in groups for name in _names(model, group))
    assert fewer.attachment(model).policy.threshold.requires_grad  # as it was before


def test_a_phase_of_the_policy_leaves_the_model_alone(model):
    with training_only(model, _phase("policy")):
        (group,) = parameter_groups(model, _phase("policy"), 0.01)
    assert _names(model, group) == {"bert.fewer.policy.threshold"}
    assert all(parameter.requires_grad for parameter in model.parameters())  # as before


def test_frozen_parameters_are_in_no_group(model):
    for parameter in model.bert.embeddings.parameters():
        parameter.requires_grad_(False)
    with training_only(model, _phase()):
        groups = parameter_groups(model, _phase(), 0.01)
    assert not any("embeddings" in name for group in groups for name in _names(model, group))
    assert not model.bert.embeddings.word_embeddings.weight.requires_grad


def test_without_a_method_there_is_no_third_group():
    assert len(parameter_groups(fewer.attach(tiny()), _phase(), 0.01)) == 2


def _trainer(model, phase, folder, **settings):
    arguments = TrainingArguments(folder, report_to="none", use_cpu=True, max_steps=1, **settings)
    return PhaseTrainer(model=model, args=arguments, phase=phase)


@pytest.mark.parametrize("regularise", [True, False])
def test_the_loss_is_that_of_the_task_and_with_regularise_of_the_policy(
    model, tmp_path, regularise
):
    trainer = _trainer(model, _phase(regularise=regularise), tmp_path)
    batch = ragged(model) | {"labels": torch.tensor([0, 1, 2, 1, 0])}
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    with fewer.record() as traces, running(model, _phase()):
        task = model(**batch).loss
    added = float(fewer.attachment(model).policy.loss(training_batch(traces[0])).detach())
    loss, outputs = trainer.compute_loss(model, dict(batch), return_outputs=True)
    assert added > 0.1
    assert loss.item() == pytest.approx(task.item() + regularise * added, rel=1e-6)
    assert outputs.logits.shape == (5, 3)
    assert trainer.compute_loss(model, dict(batch)).item() == loss.item()


def test_evaluation_adds_no_regulariser(model, tmp_path):
    phase = _phase(regularise=True)
    trainer = _trainer(model, phase, tmp_path)
    batch = ragged(model) | {"labels": torch.tensor([0, 1, 2, 1, 0])}
    with torch.no_grad(), running(model, phase):
        assert torch.equal(trainer.compute_loss(model, dict(batch)), model(**batch).loss)


def test_the_optimizer_has_the_groups_of_the_phase(model, tmp_path):
    optimizer = _trainer(model, _phase(policy_learning_rate=0.1), tmp_path).create_optimizer()
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 1e-3, 0.1]


def _attach_questions(method):
    return fewer.attach(tiny(task="QuestionAnswering"), method)


def _draw_answers(model):
    """Draw a batch of questions with their answers; each text's last token is relevant."""
    batch = ragged(model)
    last = batch["attention_mask"].sum(1) - 1
    relevant = torch.zeros_like(batch["attention_mask"]).scatter(1, last[:, None], 1)
    return batch | {"start_positions": last, "end_positions": last, "relevant": relevant}


def _record_batches(monkeypatch, policy):
    """Record the training batches of a policy class."""
    batches, loss = [], policy.loss
    monkeypatch.setattr(
        policy, "loss", lambda self, batch: batches.append(batch) or loss(self, batch)
    )
    return batches


def _disable_dropout(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model.train()


def test_relevance_is_in_the_training_batch_and_not_in_the_model_inputs(tmp_path, monkeypatch):
    model = _disable_dropout(_attach_questions(BlockSkim(block=4)))
    batches = _record_batches(monkeypatch, BlockSkimPolicy)
    batch = _draw_answers(model)
    trainer = _trainer(model, BlockSkim(block=4).phases()[0], tmp_path)
    loss = trainer.compute_loss(model, dict(batch))
    (training_batch,) = batches
    assert torch.equal(training_batch.relevant, batch["relevant"])
    assert torch.equal(training_batch.labels, torch.stack((batch["start_positions"],) * 2, 1))
    assert training_batch.teacher is None
    task_loss = training_batch.loss(training_batch.logits, training_batch.labels)
    policy_loss = fewer.attachment(model).policy.loss(training_batch)
    assert policy_loss > 0.01
    assert loss.item() == pytest.approx((task_loss + policy_loss).item(), rel=1e-5)


def test_a_phase_of_the_predictors_alone_leaves_the_model_in_eval_mode(tmp_path, monkeypatch):
    """Its predictors still learn, and no block is skipped meanwhile."""
    method = BlockSkim(block=4, training="two_stage")
    model = _attach_questions(method).train()
    fewer.set_threshold(model, threshold=1.0)
    batches = _record_batches(monkeypatch, BlockSkimPolicy)
    batch = _draw_answers(model)
    _trainer(model, method.phases()[0], tmp_path).compute_loss(model, dict(batch)).backward()
    assert not model.bert.encoder.training
    (training_batch,) = batches
    assert [output.layer for output in training_batch.trace.predictor_outputs] == [0, 1, 2]
    assert not training_batch.trace.dropped.any()
    policy = fewer.attachment(model).policy
    assert all(predictor[0].weight.grad.any() for predictor in policy.predictors)


def test_the_teacher_is_the_model_as_it_was_before_the_phase():
    """It encodes both texts together with consecutive positions, as the model without DeFormer."""
    model = _attach_questions(DeFormer(lower=1))
    teacher, dense = teacher_of(model), tiny(task="QuestionAnswering")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
        teacher_output, dense_output = (network(**ragged(model)) for network in (teacher, dense))
    real, head = ragged(model)["attention_mask"].bool(), attachment(model).head
    torch.testing.assert_close(
        head.get_logits(teacher_output)[real],
        head.get_logits(dense_output)[real],
        atol=1e-5,
        rtol=0,
    )
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def _layers_with_states(trace):
    return [number for number, layer in enumerate(trace.layers) if layer.states is not None]


def test_the_teacher_prunes_no_token_and_records_the_layers_of_its_student():
    method = DeFormer(lower=1)
    model = _attach_questions(method).train()
    teacher = teacher_of(model)
    with fewer.record() as traces, running(teacher, method.phases()[0]):
        teacher(**ragged(model))
    layer = traces[0].layers[2]
    assert _layers_with_states(traces[0]) == [1, 2]
    slots = ragged(model)["attention_mask"].flatten().nonzero()[:, 0].tolist()
    assert layer.slot.tolist() == slots
    assert layer.states.shape == (len(slots), 16)
    with fewer.record() as traces:
        teacher(**ragged(model))
    assert _layers_with_states(traces[0]) == []  # no phase with a teacher

    skimming = teacher_of(fewer.set_threshold(_attach_questions(BlockSkim(block=4)), threshold=1.0))
    with fewer.record() as traces:
        skimming(**ragged(model))
    assert not traces[0].dropped.any()


def test_a_phase_with_a_teacher_runs_it_for_every_training_batch(tmp_path, monkeypatch):
    method = DeFormer(lower=1)
    model = _disable_dropout(_attach_questions(method))
    batches = _record_batches(monkeypatch, DeFormerPolicy)
    trainer = _trainer(model, method.phases()[0], tmp_path)
    teacher, batch = trainer._teacher, _draw_answers(model)
    weights = {name: value.clone() for name, value in teacher.state_dict().items()}
    trainer.create_optimizer()
    for _ in range(3):
        trainer.compute_loss(model, dict(batch)).backward()
        trainer.optimizer.step()
    assert len(batches) == 3
    for step in batches:
        for trace in (step.teacher.trace, step.trace):
            assert _layers_with_states(trace) == [1, 2]
        assert not step.teacher.logits.requires_grad
        assert torch.equal(step.teacher.logits, batches[0].teacher.logits)
    assert not torch.equal(batches[2].logits, batches[0].logits)
    assert all(torch.equal(value, weights[name]) for name, value in teacher.state_dict().items())
    optimized = {
        id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]
    }
    assert not optimized & {id(parameter) for parameter in teacher.parameters()}


def test_a_phase_without_distillation_has_no_teacher(tmp_path):
    method = DeFormer(lower=1, distillation=0.0, similarity=0.0)
    model = _attach_questions(method).train()
    trainer = _trainer(model, method.phases()[0], tmp_path)
    assert trainer._teacher is None
    loss = trainer.compute_loss(model, _draw_answers(model))
    assert torch.isfinite(loss)


@pytest.mark.parametrize("bf16", [True, False])
def test_the_teacher_computes_in_the_precision_of_training(tmp_path, bf16):
    """accelerate wraps the model's own forward in autocast, and only that."""
    method = DeFormer(lower=1)
    model = _attach_questions(method).train()
    trainer = _trainer(model, method.phases()[0], tmp_path, bf16=bf16)
    teacher, autocast_states = trainer._teacher, []
    teacher.register_forward_pre_hook(
        lambda *_: autocast_states.append(torch.is_autocast_enabled("cpu"))
    )
    trainer.compute_loss(model, _draw_answers(model))
    assert autocast_states == [bf16]


TEXT_METHODS = sorted(
    set(METHODS) - {"dense", "block_skim", "cascade", "deformer", "sentee", "tokee", "stack"}
)


@pytest.mark.parametrize("name", TEXT_METHODS)
def test_every_method_learns_from_a_pass_under_autocast(name, tmp_path):
    """Accelerate wraps the model's forward alone: a policy's loss gets states in bf16."""
    model = fewer.attach(tiny(layers=4), METHODS[name]())
    batch = ragged(model) | {"labels": torch.tensor([0, 1, 2, 1, 0])}
    for phase in METHODS[name]().phases():
        if not phase.epochs:
            continue
        trainer = _trainer(model.train(), phase, tmp_path, bf16=True)
        forward = torch.autocast("cpu", torch.bfloat16)(type(model).forward)
        with running(model, phase), pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(model), "forward", forward)
            loss = trainer.compute_loss(model, dict(batch))
        loss.backward()
        assert torch.isfinite(loss)
