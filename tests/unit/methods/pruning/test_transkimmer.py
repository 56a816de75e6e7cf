import pytest
import torch

import fewer
from fewer.hf.attach import running
from fewer.methods.pruning import Transkimmer
from tests.batches import PHASE, calibration_data, training_batch
from tests.contract.table import SPREAD, every_backbone, read
from tests.rounding import assert_same
from tests.tiny import LENGTHS, ragged, tiny
from tests.unit.training import synthetic


def _attach(backbone="bert", **settings):
    """Attach networks that decide differently from token to token."""
    model = fewer.attach(tiny(backbone), Transkimmer(**settings))
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in fewer.attachment(model).policy.parameters():
            parameter.normal_(std=SPREAD)
    return model


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": -0.1}, "strength"),
        ({"target": 0.0}, "target"),
        ({"threshold": 1.1}, "threshold"),
        ({"temperature": 0.0}, "temperature"),
        ({"epochs": -1.0}, "epochs"),
        ({"learning_rates": (1e-5,)}, "learning_rates"),
    ],
)
def test_values_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Transkimmer(**settings)


def test_the_phase_trains_model_and_networks_at_rates_of_their_own():
    (phase,) = Transkimmer(epochs=2, learning_rates=(1e-5, 1e-2)).phases()
    assert (phase.name, phase.apply, phase.trains, phase.epochs) == ("skim", "soften", "all", 2)
    assert (phase.learning_rate, phase.policy_learning_rate) == (1e-5, 1e-2)
    assert (phase.regularise, phase.calibrate) == (True, False)
    assert Transkimmer(target=0.5).phases()[0].calibrate


def test_lambda_is_a_half_and_with_a_target_1():
    methods = Transkimmer(), Transkimmer(target=0.5), Transkimmer(strength=0.2)
    assert [method.weight for method in methods] == [0.5, 1.0, 0.2]


@every_backbone
def test_untrained_nothing_is_skimmed(backbone):
    model = fewer.attach(tiny(backbone), Transkimmer())
    batch = ragged(model)
    logits, trace = read(model, batch)
    assert_same(logits, read(fewer.attach(tiny(backbone)), batch)[0])
    assert trace.layers_read.sum() == len(trace.layers) * sum(LENGTHS)


@every_backbone
def test_training_computes_what_inference_does(backbone):
    """The law that the published code broke: a skimmed token has no weight in training."""
    model = _attach(backbone)
    batch = ragged(model)
    hard, trace = read(model, batch, "mask")
    soft, _ = read(model, batch, "soften")
    assert bool(trace.dropped.any())
    torch.testing.assert_close(soft, hard, atol=1e-4, rtol=0)


def test_only_the_phase_that_trains_draws():
    model = _attach()
    batch = ragged(model)
    first, second = (read(model, batch, "soften")[0] for _ in range(2))
    assert torch.equal(first, second)
    phase = Transkimmer().phases()[0]
    with running(model, phase), torch.no_grad():
        drawn = [model(**batch).logits for _ in range(2)]
    assert not torch.equal(*drawn)


@every_backbone
def test_the_loss_reaches_every_network_and_the_model(backbone):
    model = fewer.attach(tiny(backbone), Transkimmer(strength=1.0))
    policy = fewer.attachment(model).policy
    with torch.no_grad():
        for predictor in policy.predictors:
            predictor[4].bias.zero_()
    torch.manual_seed(1)
    with running(model, Transkimmer().phases()[0]), fewer.record() as traces:
        loss = model(**ragged(model)).logits.square().mean()
    penalty = policy.loss(training_batch(traces[0]))
    # fewer tokens, less penalty: its gradient closes the first network, which skims for all layers
    (gradient,) = torch.autograd.grad(penalty, policy.predictors[0][4].bias, retain_graph=True)
    assert float(gradient[1]) > 0
    (loss + penalty).backward()
    for parameter in policy.parameters():
        assert bool(parameter.grad.isfinite().all())
        assert float(parameter.grad.abs().max()) > 0


def test_a_skimmed_token_has_a_gradient_of_the_task():
    """Attention and state would differ if it stayed, and its network is told so."""
    model = fewer.attach(tiny(), Transkimmer(strength=0.0))
    policy = fewer.attachment(model).policy
    with torch.no_grad():
        policy.predictors[1][4].bias.copy_(torch.tensor([1.0, -1.0]))
    torch.manual_seed(0)
    with running(model, Transkimmer().phases()[0]):
        model(**ragged(model)).logits.square().mean().backward()
    gradient = policy.predictors[1][4].bias.grad
    assert bool(gradient.isfinite().all())
    assert 1e-6 < float(gradient.abs().max()) < 1e3


def test_a_higher_threshold_keeps_fewer_tokens():
    model = _attach()
    points = fewer.attachment(model).policy.operating_points()
    kept = []
    for threshold in (0.0, *points.path, 1.0):
        points.set(threshold)
        kept.append(int(read(model, ragged(model))[1].layers_read.sum()))
    assert kept == sorted(kept, reverse=True)
    assert kept[0] == 3 * sum(LENGTHS) > kept[-1]
    with pytest.raises(ValueError, match="threshold"):
        points.set(1.5)


@pytest.mark.parametrize("target", [0.6, 0.8, 0.95])
def test_calibration_meets_its_target(target):
    model = _attach(target=target)
    attached = fewer.attachment(model)
    batch = ragged(model, torch.randint(5, 40, (40,)).tolist())

    def flops_ratio():
        return float(attached.spec.flops_ratio(read(model, batch)[1]))

    attached.policy.calibrate(PHASE, calibration_data(flops_ratio))
    assert flops_ratio() == pytest.approx(target, abs=0.01)


def test_a_target_out_of_reach_is_warned_of():
    model = _attach(target=0.05)
    attached, batch = fewer.attachment(model), ragged(model)

    def flops_ratio():
        return float(attached.spec.flops_ratio(read(model, batch)[1]))

    with pytest.warns(UserWarning, match=r"Transkimmer keeps 0\.\d+ of the FLOPs, not the target"):
        attached.policy.calibrate(PHASE, calibration_data(flops_ratio))


@pytest.mark.parametrize(("target", "first"), [(None, False), (0.5, True)])
def test_the_threshold_stays_before_training_and_without_a_target(target, first):
    policy = fewer.attachment(_attach(target=target, threshold=0.4)).policy
    data = calibration_data(lambda: pytest.fail("no ratio is needed"), first=first)
    policy.calibrate(PHASE, data)
    assert float(policy.threshold) == pytest.approx(0.4)


def test_training_meets_the_target(tmp_path):
    rows = synthetic.texts(160)
    method = Transkimmer(target=0.8, epochs=3, learning_rates=(2e-3, 2e-2))
    model = synthetic.run(tmp_path, method=method, train=rows, dense=None)
    assert synthetic.share(model, rows) == pytest.approx(0.8, abs=0.02)


def test_the_skim_loss_lowers_the_share(tmp_path):
    rows = synthetic.texts(160)
    method = Transkimmer(strength=2.0, epochs=3, learning_rates=(2e-3, 5e-2))
    before = fewer.attach(synthetic.small_model().eval(), method)
    model = synthetic.run(tmp_path, method=method, train=rows, dense=None)
    assert synthetic.share(before, rows) > 1  # all tokens, and the networks
    assert synthetic.share(model, rows) < 0.8
