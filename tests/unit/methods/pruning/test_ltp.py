import pytest
import torch

import fewer
from fewer import LTP
from tests.contract.table import every_backbone, read, watched
from tests.lessons import PHASE, lesson, rehearsal
from tests.tiny import ragged, tiny


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"final_threshold": 0.0}, r"final_threshold is 0\.0, wanted a value in \(0, 1\)"),
        ({"final_threshold": 1.0}, "final_threshold is"),
        ({"epochs": (1,)}, r"wanted \(soft, hard\)"),
        ({"learning_rates": (1e-5, 1e-4)}, "thresholds, model in the hard phase"),
        ({"temperature": 0.0}, "temperature is 0.0, wanted a positive value"),
        ({"strength": -0.1}, r"strength \(lambda\) is -0\.1, wanted 0 or more"),
        ({"target": 0.0}, "target is 0.0, wanted the share"),
        ({"target": 1.0}, "target is 1.0, wanted the share"),
        ({"soft_rule": "keys"}, "soft_rule is 'keys', wanted 'attention' or 'output'"),
        ({"target": 0.5, "soft_rule": "output"}, "target needs soft_rule='attention'"),
        ({"reference_length": 0}, "reference_length is 0, wanted a length"),
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
    kept = []
    for threshold in (0.01, 0.1, 0.3, 0.9):
        model = fewer.attach(tiny(backbone), LTP(final_threshold=threshold))
        kept.append(int(read(model, ragged(model))[1].layers_read.sum()))
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] < kept[0]


@every_backbone
def test_the_loss_reaches_thresholds_queries_and_keys(backbone):
    model = fewer.attach(tiny(backbone), LTP(final_threshold=0.1, temperature=0.1))
    own = fewer.attachment(model)
    with fewer.applying(model, "soften"), fewer.record() as traces:
        model(**ragged(model))
    own.policy.loss(lesson(traces[0])).backward()
    assert (own.policy.threshold.grad < 0).all()  # a higher threshold, fewer gates, less loss
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(part in name for name in moved for part in ("query", "q_lin", "Wqkv"))


def test_the_penalty_of_a_target_is_the_distance_to_it():
    model = fewer.attach(tiny(), LTP(final_threshold=0.2, target=0.25, strength=2.0))
    own = fewer.attachment(model)
    _, trace = read(model, ragged(model), "soften")
    share = float(own.shape.share(trace))
    assert share > 0.25
    assert float(own.policy.loss(lesson(trace))) == pytest.approx(2.0 * (share - 0.25), rel=1e-5)


@pytest.mark.parametrize("target", [0.5, 0.6, 0.8, 0.95])
@pytest.mark.parametrize("threshold", [0.001, 0.05, 0.5])
def test_calibration_meets_its_target_from_any_start(target, threshold):
    lengths = torch.randint(5, 40, (40,)).tolist()
    model = tiny(layers=6)
    fewer.attach(model, LTP(final_threshold=threshold, target=target))
    own, batch = fewer.attachment(model), ragged(model, lengths)

    def share():
        return float(own.shape.share(read(model, batch)[1]))

    before = own.policy.threshold.detach().clone()
    own.policy.calibrate(PHASE, rehearsal(share))
    assert share() == pytest.approx(target, abs=0.01)
    factors = own.policy.threshold.detach() / before
    torch.testing.assert_close(factors, factors[:1].expand(5))


def test_a_target_out_of_reach_is_said_so():
    """Layer 0 of three reads everything: a tenth of the FLOPs cannot be reached."""
    model = fewer.attach(tiny(), LTP(target=0.1))
    own, batch = fewer.attachment(model), ragged(model)

    def share():
        return float(own.shape.share(read(model, batch)[1]))

    with pytest.warns(UserWarning, match=r"LTP keeps 0\.[4-6]\d\d of the FLOPs, not the target of"):
        own.policy.calibrate(PHASE, rehearsal(share))
    assert read(model, batch)[1].layers[-1].read.sum() < 10  # it went as far as it could


def test_without_a_target_calibration_leaves_the_thresholds():
    policy = fewer.attachment(fewer.attach(tiny(), LTP(final_threshold=0.2))).policy
    before = policy.threshold.detach().clone()
    policy.calibrate(PHASE, rehearsal(lambda: pytest.fail("nothing to measure")))
    assert torch.equal(policy.threshold, before)


def test_a_threshold_below_the_floor_of_the_released_code_acts_as_the_floor():
    model = fewer.attach(tiny(), LTP(final_threshold=0.2))
    with torch.no_grad():
        fewer.attachment(model).policy.threshold.fill_(-1.0)
    with watched(model) as seen:
        read(model, ragged(model))
    for view, decision in seen:
        if view.layer:
            assert torch.equal(decision.stays, view.tokens.received >= 1e-5)


def test_a_reference_length_scales_the_score_by_the_texts_length():
    """With n living queries the score is n / reference times the mean: long texts keep more."""
    method = LTP(final_threshold=0.2, temperature=1.0, reference_length=6)
    model = fewer.attach(tiny(), method)
    with watched(model) as seen:
        read(model, ragged(model), "soften")
    for view, decision in seen[1:]:
        living = view.tokens.count(view.tokens.presence)[view.tokens.sequence]
        theta = fewer.attachment(model).policy.threshold[view.layer - 1]
        wanted = torch.sigmoid(view.tokens.received * living / 6 - theta)
        torch.testing.assert_close(decision.gate, wanted)
