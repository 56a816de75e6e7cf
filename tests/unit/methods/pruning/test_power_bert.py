import pytest
import torch

import fewer
from fewer.methods.pruning import PoWERBERT
from tests.batches import PHASE, calibration_data, training_batch
from tests.contract.table import every_backbone, read
from tests.rounding import assert_same
from tests.tiny import ragged, tiny
from tests.unit.training import synthetic


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"retention": ()}, "retention"),
        ({"retention": (3, 0)}, r"retention\[1\]"),
        ({"retention": (3, 4)}, "retention must not grow"),
        ({"retention": (65, 4)}, "reference_length=64"),
        ({"retention": (4, 4), "target": 0.5}, "target must be absent with a retention"),
        ({"target": 1.0}, "target"),
        ({"reference_length": 0}, "reference_length"),
        ({"counts": "padded"}, "counts"),
        ({"strength": -1.0}, "strength"),
        ({"epochs": (1,)}, "epochs"),
        ({"learning_rates": (1e-5, 1e-4)}, "learning_rates"),
    ],
)
def test_values_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PoWERBERT(**settings)


def test_a_retention_has_a_number_for_each_layer():
    with pytest.raises(ValueError, match="each of the 3 layers; got 2"):
        fewer.attach(tiny(), PoWERBERT(retention=(4, 4)))


def test_the_phases_are_soft_then_hard():
    method = PoWERBERT(epochs=(2, 3), learning_rates=(1e-5, 1e-3, 1e-6))
    soft, hard = method.phases()
    assert (soft.name, soft.apply, soft.trains, soft.epochs) == ("soft", "scale_state", "all", 2)
    assert (soft.learning_rate, soft.policy_learning_rate) == (1e-5, 1e-3)
    assert soft.regularise
    assert soft.calibrate
    assert (hard.name, hard.apply, hard.trains, hard.epochs) == ("hard", "compact", "model", 3)
    assert hard.learning_rate == 1e-6


def test_with_a_given_retention_only_the_model_trains():
    (hard,) = PoWERBERT(retention=(4, 4, 2)).phases()
    assert (hard.name, hard.apply, hard.trains) == ("hard", "compact", "model")
    model = fewer.attach(tiny(), PoWERBERT(retention=(4, 4, 2)))
    assert list(fewer.attachment(model).policy.parameters()) == []
    batch = ragged(model)
    dense = read(fewer.attach(tiny()), batch)[0]
    assert_same(read(model, batch, "scale_state")[0], dense)


@every_backbone
def test_an_untrained_method_changes_no_answer(backbone):
    model = fewer.attach(tiny(backbone), PoWERBERT())
    batch = ragged(model)
    dense = read(fewer.attach(tiny(backbone)), batch)[0]
    for apply in ("compact", "mask", "scale_state"):
        logits, trace = read(model, batch, apply)
        assert_same(logits, dense)  # layers that score sum in another order
        assert not trace.dropped.any()


@every_backbone
def test_the_loss_reaches_every_number_and_the_task_those_of_the_ranks(backbone):
    """The last layer's output is read at [CLS] alone, which is never scaled."""
    model = fewer.attach(tiny(backbone), PoWERBERT(reference_length=12))
    policy = fewer.attachment(model).policy
    with torch.no_grad():
        policy.scale.fill_(0.5)
    with fewer.applying(model, "scale_state"), fewer.record() as traces:
        logits = model(**ragged(model)).logits
    logits.square().sum().backward(retain_graph=True)
    gradient = policy.scale.grad.clone()
    assert (gradient[:-1, 1:].abs() > 0).all()
    assert (gradient[:, 0] == 0).all()  # of rank 0, which is [CLS]
    policy.loss(training_batch(traces[0])).backward()
    assert (policy.scale.grad - gradient > 0).all()


@pytest.mark.parametrize("counts", ["relative", "absolute"])
@pytest.mark.parametrize("target", [0.3, 0.5, 0.8])
def test_calibration_meets_its_target_and_keeps_the_shape(target, counts):
    lengths = torch.randint(5, 40, (40,), generator=torch.Generator().manual_seed(1)).tolist()
    method = PoWERBERT(target=target, counts=counts, reference_length=40)
    model = fewer.attach(tiny(layers=6), method)
    attached, batch = fewer.attachment(model), ragged(model, lengths)
    with torch.no_grad():  # masses fall from 40 to 20
        attached.policy.scale.copy_(torch.linspace(1, 0.5, 6)[:, None].expand(6, 40))

    def flops_ratio():
        return float(attached.spec.flops_ratio(read(model, batch)[1]))

    attached.policy.calibrate(PHASE, calibration_data(flops_ratio))
    assert flops_ratio() == pytest.approx(target, abs=0.01)
    retention = attached.policy.retention
    assert retention.tolist() == sorted(retention.tolist(), reverse=True)
    inside = (retention > 1) & (retention < 40)
    factors = retention[inside] / torch.linspace(40, 20, 6)[inside]
    torch.testing.assert_close(factors, factors[:1].expand(len(factors)))


def test_a_target_out_of_reach_is_warned_of():
    """The first attention of three computes everything: a twentieth cannot be reached."""
    model = fewer.attach(tiny(), PoWERBERT(target=0.05))
    attached, batch = fewer.attachment(model), ragged(model)

    def flops_ratio():
        return float(attached.spec.flops_ratio(read(model, batch)[1]))

    with pytest.warns(UserWarning, match=r"PoWERBERT keeps 0\.[1-4]\d\d of the FLOPs, not"):
        attached.policy.calibrate(PHASE, calibration_data(flops_ratio))
    assert read(model, batch)[1].layers[0].read.tolist() == [1] * 5  # it went as far as it could


@pytest.mark.parametrize("target", [0.5, 0.7])
def test_training_meets_its_target_and_the_masses_fall_with_the_layers(tmp_path, target):
    method = PoWERBERT(
        target=target,
        reference_length=16,
        strength=1e-2,
        epochs=(2, 1),
        learning_rates=(2e-3, 5e-2, 2e-3),
    )
    model = synthetic.run(tmp_path, method=method)
    policy = fewer.attachment(model).policy
    assert synthetic.share(model, synthetic.texts(synthetic.ROWS)) == pytest.approx(
        target, abs=0.005
    )
    masses = policy.scale.detach().sum(1)
    assert (masses < 16).all()
    assert masses[2] < masses[0]
    loaded = fewer.load(tmp_path / "model")
    assert torch.equal(fewer.attachment(loaded).policy.retention, policy.retention)


def test_without_a_target_the_configuration_is_that_of_the_masses(tmp_path):
    method = PoWERBERT(
        reference_length=16, strength=1e-2, epochs=(2, 1), learning_rates=(2e-3, 5e-2, 2e-3)
    )
    policy = fewer.attachment(synthetic.run(tmp_path, method=method)).policy
    whole = policy.scale.detach().clamp(0, 1).sum(1).floor()
    assert torch.equal(policy.retention, whole.cummin(0).values)
    assert (policy.retention < 16).all()
