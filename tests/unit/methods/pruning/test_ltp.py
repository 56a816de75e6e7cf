import pytest
import torch

import fewer
from fewer import LTP
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
    assert any(part in name for name in learned for part in ("query", "q_lin", "Wqkv"))


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
