from dataclasses import replace

import pytest
import torch

import fewer
from fewer import LTP, MagicPyramid
from fewer.core.learning import TeacherOutput
from fewer.core.needs import Needs
from fewer.core.phase import INFERENCE
from fewer.hf.attach import running
from fewer.methods.combined import Stack
from fewer.methods.pruning import SpAtten
from fewer.methods.pruning.ranking import ranking_loss
from fewer.training.trainer import teacher_of
from tests.batches import PHASE, calibration_data, training_batch
from tests.contract.table import every_backbone, read, watched
from tests.tiny import ragged, tiny


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"final_threshold": 0.0}, "final_threshold"),
        ({"final_threshold": 1.0}, "final_threshold"),
        ({"epochs": (1,)}, "epochs"),
        ({"learning_rates": (1e-5, 1e-4)}, "learning_rates"),
        ({"temperature": 0.0}, "temperature"),
        ({"strength": -0.1}, "strength"),
        ({"target": 0.0}, "target"),
        ({"target": 1.0}, "target"),
        ({"soft_rule": "keys"}, "soft_rule"),
        ({"target": 0.5, "soft_rule": "output"}, "soft_rule must be 'attention' with a target"),
        ({"reference_length": 0}, "reference_length"),
        ({"ranking": -0.1}, "ranking"),
    ],
)
def test_values_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LTP(**settings)


@pytest.mark.parametrize(("rule", "apply"), [("attention", "soften"), ("output", "soften_output")])
def test_the_phases_are_soft_then_hard(rule, apply):
    method = LTP(soft_rule=rule, epochs=(2, 3), learning_rates=(1e-5, 1e-3, 1e-6))
    soft, hard = method.phases()
    assert (soft.name, soft.apply, soft.trains, soft.epochs) == ("soft", apply, "all", 2)
    assert (soft.learning_rate, soft.policy_learning_rate, soft.regularise) == (1e-5, 1e-3, True)
    assert (hard.name, hard.apply, hard.trains, hard.epochs) == ("hard", "compact", "model", 3)
    assert not hard.regularise
    assert not soft.calibrate
    assert LTP(target=0.5).phases()[0].calibrate


@every_backbone
def test_a_higher_threshold_keeps_fewer_tokens(backbone):
    counts = []
    for threshold in (0.01, 0.1, 0.3, 0.9):
        model = fewer.attach(tiny(backbone), LTP(final_threshold=threshold))
        counts.append(int(read(model, ragged(model))[1].layers_read.sum()))
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < counts[0]


@every_backbone
def test_the_loss_reaches_thresholds_queries_and_keys(backbone):
    model = fewer.attach(tiny(backbone), LTP(final_threshold=0.1, temperature=0.1))
    attached = fewer.attachment(model)
    with fewer.applying(model, "soften"), fewer.record() as traces:
        model(**ragged(model))
    attached.policy.loss(training_batch(traces[0])).backward()
    assert (attached.policy.threshold.grad < 0).all()  # a higher threshold, fewer gates, less loss
    learned = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(part in name for name in learned for part in ("query", "q_lin", "Wqkv", "attn.q."))


def test_the_penalty_of_a_target_is_the_distance_to_it():
    model = fewer.attach(tiny(), LTP(final_threshold=0.2, target=0.25, strength=2.0))
    attached = fewer.attachment(model)
    _, trace = read(model, ragged(model), "soften")
    ratio = float(attached.spec.flops_ratio(trace))
    assert ratio > 0.25
    assert float(attached.policy.loss(training_batch(trace))) == pytest.approx(
        2.0 * (ratio - 0.25), rel=1e-5
    )


@pytest.mark.parametrize("target", [0.5, 0.6, 0.8, 0.95])
@pytest.mark.parametrize("threshold", [0.001, 0.05, 0.5])
def test_calibration_meets_its_target_from_any_start(target, threshold):
    lengths = torch.randint(5, 40, (40,)).tolist()
    model = tiny(layers=6)
    fewer.attach(model, LTP(final_threshold=threshold, target=target))
    attached, batch = fewer.attachment(model), ragged(model, lengths)

    def flops_ratio():
        return float(attached.spec.flops_ratio(read(model, batch)[1]))

    before = attached.policy.threshold.detach().clone()
    attached.policy.calibrate(PHASE, calibration_data(flops_ratio))
    assert flops_ratio() == pytest.approx(target, abs=0.01)
    factors = attached.policy.threshold.detach() / before
    torch.testing.assert_close(factors, factors[:1].expand(5))


def test_a_target_out_of_reach_is_warned_of():
    """Layer 0 of three computes everything: a tenth of the FLOPs cannot be reached."""
    model = fewer.attach(tiny(), LTP(target=0.1))
    attached, batch = fewer.attachment(model), ragged(model)

    def flops_ratio():
        return float(attached.spec.flops_ratio(read(model, batch)[1]))

    with pytest.warns(UserWarning, match=r"LTP keeps 0\.[4-6]\d\d of the FLOPs, not the target of"):
        attached.policy.calibrate(PHASE, calibration_data(flops_ratio))
    assert read(model, batch)[1].layers[-1].read.sum() < 10  # it went as far as it could


def test_without_a_target_calibration_leaves_the_thresholds():
    policy = fewer.attachment(fewer.attach(tiny(), LTP(final_threshold=0.2))).policy
    before = policy.threshold.detach().clone()
    policy.calibrate(PHASE, calibration_data(lambda: pytest.fail("no ratio is needed")))
    assert torch.equal(policy.threshold, before)


def test_a_threshold_below_the_floor_of_the_released_code_acts_as_the_floor():
    model = fewer.attach(tiny(), LTP(final_threshold=0.2))
    with torch.no_grad():
        fewer.attachment(model).policy.threshold.fill_(-1.0)
    with watched(model) as seen:
        read(model, ragged(model))
    for view, decision in seen:
        if view.layer:
            assert torch.equal(decision.kept, view.evidence.received >= 1e-5)


def test_a_reference_length_scales_the_score_by_the_texts_length():
    """With n alive queries the score is n / reference times the mean: long texts keep more."""
    method = LTP(final_threshold=0.2, temperature=1.0, reference_length=6)
    model = fewer.attach(tiny(), method)
    with watched(model) as seen:
        read(model, ragged(model), "soften")
    for view, decision in seen[1:]:
        alive = view.tokens.count(view.tokens.participation)[view.tokens.sequence]
        theta = fewer.attachment(model).policy.threshold[view.layer - 1]
        expected = torch.sigmoid(view.evidence.received * alive / 6 - theta)
        torch.testing.assert_close(decision.gate, expected)


def _run(model, phase):
    with torch.no_grad(), running(model, phase), fewer.record() as traces:
        logits = model(**ragged(model)).logits
    return TeacherOutput(logits, traces[0])


def test_the_ranking_of_the_dense_last_layer_teaches_the_first_third():
    method = LTP(final_threshold=0.3, temperature=0.1, ranking=0.5)
    model = fewer.attach(tiny(layers=6, attn_implementation="eager"), method)
    (phase, _), policy = method.phases(), fewer.attachment(model).policy
    teacher = _run(teacher_of(model), phase)
    with torch.no_grad():
        batch = ragged(model)
        maps = tiny(layers=6, attn_implementation="eager")(**batch, output_attentions=True)
    last, mask = maps.attentions[-1].mean(1), batch["attention_mask"]
    queries = mask[:, :, None] / mask.sum(1)[:, None, None]
    expected = (last * queries).sum(1)[mask.bool()]
    torch.testing.assert_close(teacher.trace.layers[-1].received, expected)

    student = _run(model, phase).trace
    assert [layer.received is not None for layer in student.layers] == [0, 1, 0, 0, 0, 1]
    plain = float(policy.loss(training_batch(student)))
    loss = float(policy.loss(training_batch(student, teacher=teacher)))
    distance = float(ranking_loss(student, teacher.trace))
    assert distance > 0
    assert loss == pytest.approx(plain + 0.5 * distance)


def test_a_ranking_needs_a_teacher_in_the_soft_phase_alone():
    soft, hard = LTP(ranking=0.1).phases()
    assert (soft.teacher, hard.teacher) == (True, False)
    assert not any(phase.teacher for phase in LTP().phases())
    pyramid = MagicPyramid(pruning=LTP(target=0.5, ranking=0.1), joint_epochs=1.0)
    assert [phase.teacher for phase in pyramid.phases()] == [True]
    policy = fewer.attachment(fewer.attach(tiny(), LTP(ranking=0.1))).policy
    assert policy.needs(1, soft) == Needs(received=True, received_in_trace=True)
    assert policy.needs(1, hard) == policy.needs(1, INFERENCE) == Needs(received=True)


def test_a_ranking_is_learned_where_a_method_has_pruned_before():
    method = Stack((SpAtten(token_ratios=(0.0, 0.5)), LTP(final_threshold=0.1, ranking=1.0)))
    model = fewer.attach(tiny(), method)
    phase = next(phase for phase in method.phases() if phase.teacher)
    teacher, attached = _run(teacher_of(model), phase), fewer.attachment(model)
    with running(model, phase), fewer.record() as traces:
        model(**ragged(model))
    batch = training_batch(traces[0], phase=phase, teacher=teacher)
    without = attached.policy.loss(replace(batch, teacher=None))
    added = attached.policy.loss(batch) - without
    torch.testing.assert_close(added, ranking_loss(traces[0], teacher.trace))
    added.backward()
    taught, untaught = (model.base_model.encoder.layer[n].attention.self.key for n in (1, 2))
    assert taught.weight.grad.abs().sum() > 0
    assert untaught.weight.grad.abs().sum() == 0
