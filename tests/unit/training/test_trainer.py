import pytest
import torch
from transformers import TrainingArguments

import fewer
from fewer import LTP, Phase
from fewer.training.trainer import PhaseTrainer, parameter_groups, training_only
from tests.lessons import lesson
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


@pytest.mark.parametrize(("own", "wanted"), [(0.1, 0.1), (None, 1e-3)])
def test_the_policy_has_its_own_rate_or_that_of_the_model(model, own, wanted):
    *others, learned = parameter_groups(model, _phase(policy_learning_rate=own), 0.01)
    assert learned["lr"] == wanted
    assert all("lr" not in group for group in others)


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


def test_what_was_frozen_before_stays_out(model):
    for parameter in model.bert.embeddings.parameters():
        parameter.requires_grad_(False)
    with training_only(model, _phase()):
        groups = parameter_groups(model, _phase(), 0.01)
    assert not any("embeddings" in name for group in groups for name in _names(model, group))
    assert not model.bert.embeddings.word_embeddings.weight.requires_grad


def test_without_a_method_there_is_no_third_group():
    assert len(parameter_groups(fewer.attach(tiny()), _phase(), 0.01)) == 2


def _trainer(model, phase, folder):
    arguments = TrainingArguments(folder, report_to="none", use_cpu=True, max_steps=1)
    return PhaseTrainer(model=model, args=arguments, phase=phase)


@pytest.mark.parametrize("regularise", [True, False])
def test_the_loss_is_that_of_the_task_and_of_the_policy_if_asked_for(model, tmp_path, regularise):
    trainer = _trainer(model, _phase(regularise=regularise), tmp_path)
    batch = ragged(model) | {"labels": torch.tensor([0, 1, 2, 1, 0])}
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    fewer.attachment(model).apply_in_training = "soften"
    with fewer.record() as traces:
        task = model(**batch).loss
    added = float(fewer.attachment(model).policy.loss(lesson(traces[0])).detach())
    loss, outputs = trainer.compute_loss(model, dict(batch), return_outputs=True)
    assert added > 0.1
    assert loss.item() == pytest.approx(task.item() + regularise * added, rel=1e-6)
    assert outputs.logits.shape == (5, 3)
    assert trainer.compute_loss(model, dict(batch)).item() == loss.item()


def test_evaluation_adds_no_regulariser(model, tmp_path):
    trainer = _trainer(model, _phase(regularise=True), tmp_path)
    batch = ragged(model) | {"labels": torch.tensor([0, 1, 2, 1, 0])}
    with torch.no_grad():
        assert torch.equal(trainer.compute_loss(model, dict(batch)), model(**batch).loss)


def test_the_optimizer_has_the_groups_of_the_phase(model, tmp_path):
    optimizer = _trainer(model, _phase(policy_learning_rate=0.1), tmp_path).create_optimizer()
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 1e-3, 0.1]
