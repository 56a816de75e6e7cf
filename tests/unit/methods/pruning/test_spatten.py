import copy

import pytest
import torch

import fewer
from fewer import LTP
from fewer.core.needs import Needs
from fewer.core.phase import INFERENCE
from fewer.methods.combined import Stack
from fewer.methods.pruning import SpAtten
from fewer.methods.pruning.spatten import count_kept
from tests.batches import PHASE, calibration_data
from tests.contract.table import every_backbone, read, watched
from tests.tiny import LENGTHS, ragged, tiny
from tests.unit.training import synthetic


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"token_ratios": (0.5,)}, "token_ratios"),
        ({"token_ratios": (0.5, 1.0)}, "token_ratios"),
        ({"token_ratios": (0.5, 0.4)}, "token_ratios must not fall"),
        ({"head_ratios": (-0.1, 0.4)}, "head_ratios"),
        ({"head_ratios": (0.2, 0.1)}, "head_ratios must not fall"),
        ({"target": 1.0}, "target"),
        ({"target": 0.5, "token_ratios": (0, 0)}, "token_ratios must not be 0 with a target"),
        ({"epochs": -1.0}, "epochs"),
    ],
)
def test_values_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SpAtten(**settings)


def test_a_model_of_one_layer_is_refused():
    with pytest.raises(ValueError, match="two layers or more"):
        fewer.attach(tiny(layers=1), SpAtten())


def test_the_phase_tunes_the_model_with_tokens_gone():
    (phase,) = SpAtten(epochs=2, learning_rate=1e-5, target=0.5).phases()
    assert (phase.name, phase.apply, phase.trains, phase.epochs) == ("hard", "compact", "model", 2)
    assert (phase.learning_rate, phase.calibrate, phase.regularise) == (1e-5, True, False)
    assert not SpAtten().phases()[0].calibrate


def test_each_layer_keeps_the_share_of_its_schedule_of_each_text():
    model = fewer.attach(tiny(layers=5), SpAtten(token_ratios=(0.3, 0.9)))
    _, trace = read(model, ragged(model))
    lengths = torch.tensor(LENGTHS).float()
    for layer, ratio in zip(trace.layers, (0.0, 0.3, 0.5, 0.7, 0.9), strict=True):
        assert layer.keys.tolist() == (lengths * (1 - ratio)).ceil().clamp_min(1).tolist()


def test_counts_are_rounded_up_and_at_least_one():
    lengths = torch.tensor([1, 2, 10, 100])
    assert count_kept(lengths, 0.75).tolist() == [1, 1, 3, 25]
    assert count_kept(lengths, 0.0).tolist() == [1, 2, 10, 100]
    assert count_kept(lengths, 7.0).tolist() == [1, 1, 1, 1]


def test_the_host_tells_how_many_tokens_stay():
    model = fewer.attach(tiny(layers=4), SpAtten(token_ratios=(0.3, 0.9)))
    with watched(model) as steps:
        _, trace = read(model, ragged(model))
    counts = [decision.count for _, decision in steps if decision is not None]
    assert counts == [layer.keys.sum() for layer in trace.layers[1:]]


@pytest.mark.parametrize("attached", ["protect", "stack"])
def test_the_host_does_not_know_where_others_decide_too(attached):
    method = SpAtten(token_ratios=(0.3, 0.9))
    if attached == "protect":
        model = fewer.attach(tiny(), method, protect=tuple(range(5, 40)))
        policy = fewer.attachment(model).policy
    else:
        model = fewer.attach(tiny(), Stack((LTP(final_threshold=0.3), method)))
        policy = fewer.attachment(model).policy.parts[1]
    decisions = []
    decide = policy.decide
    policy.decide = lambda view: decisions.append(decide(view)) or decisions[-1]
    read(model, ragged(model))
    pruned = [decision for decision in decisions if decision is not None]
    assert len(pruned) == 2
    assert all(decision.count is None for decision in pruned)


def test_nothing_is_measured_that_no_later_layer_prunes_by():
    policy = fewer.attachment(fewer.attach(tiny(layers=4), SpAtten())).policy
    needs = [policy.needs(layer, INFERENCE) for layer in range(4)]
    assert needs == [Needs(received=True)] * 3 + [Needs()]
    heads = SpAtten(token_ratios=(0, 0), head_ratios=(0, 0.5))
    policy = fewer.attachment(fewer.attach(tiny(layers=4), heads)).policy
    needs = [policy.needs(layer, INFERENCE) for layer in range(4)]
    assert needs == [Needs(head_context=True)] * 3 + [Needs()]


@every_backbone
def test_a_larger_factor_keeps_fewer_flops(backbone):
    model = fewer.attach(tiny(backbone), SpAtten())
    points = fewer.attachment(model).policy.operating_points()
    shares = []
    for factor in (0.0, *points.path):
        points.set(factor)
        _, trace = read(model, ragged(model))
        shares.append(float(fewer.attachment(model).spec.flops_ratio(trace)))
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 1 > shares[-1]  # scoring costs something
    with pytest.raises(ValueError, match="threshold"):
        points.set(-1.0)


def test_a_changed_factor_is_seen_by_the_next_pass_also_in_a_copy():
    model = fewer.attach(tiny(), SpAtten(token_ratios=(0.5, 0.5)))
    batch = ragged(model)
    before = read(model, batch)[1].layers_read.sum()
    duplicate = copy.deepcopy(model)
    fewer.set_threshold(model, threshold=0.0)
    assert read(model, batch)[1].layers_read.sum() == 3 * sum(LENGTHS) > before
    assert read(duplicate, batch)[1].layers_read.sum() == before


@pytest.mark.parametrize("target", [0.5, 0.6, 0.8, 0.95])
def test_calibration_meets_its_target(target):
    model = tiny(layers=6)
    method = SpAtten(target=target, token_ratios=(0.1, 0.3))
    fewer.attach(model, method)
    attached = fewer.attachment(model)
    batch = ragged(model, torch.randint(5, 40, (40,)).tolist())

    def flops_ratio():
        return float(attached.spec.flops_ratio(read(model, batch)[1]))

    attached.policy.calibrate(PHASE, calibration_data(flops_ratio))
    assert flops_ratio() == pytest.approx(target, abs=0.01)


def test_a_target_out_of_reach_is_warned_of():
    model = fewer.attach(tiny(), SpAtten(target=0.1))
    attached, batch = fewer.attachment(model), ragged(model)

    def flops_ratio():
        return float(attached.spec.flops_ratio(read(model, batch)[1]))

    with pytest.warns(
        UserWarning, match=r"SpAtten keeps 0\.[3-6]\d\d of the FLOPs, not the target"
    ):
        attached.policy.calibrate(PHASE, calibration_data(flops_ratio))


def test_without_a_target_calibration_leaves_the_factor():
    policy = fewer.attachment(fewer.attach(tiny(), SpAtten())).policy
    policy.calibrate(PHASE, calibration_data(lambda: pytest.fail("no ratio is needed")))
    assert float(policy.factor) == 1.0


def test_training_meets_the_target(tmp_path):
    rows = synthetic.texts(synthetic.ROWS)
    method = SpAtten(target=0.7, learning_rate=2e-3)
    model = synthetic.run(tmp_path, method=method, train=rows, dense=None)
    assert synthetic.share(model, rows) == pytest.approx(0.7, abs=0.01)


def test_a_stack_multiplies_decisions_and_both_prune():
    alone = fewer.attach(tiny(), LTP(final_threshold=0.2))
    both = fewer.attach(tiny(), Stack((LTP(final_threshold=0.2), SpAtten(token_ratios=(0.5, 0.9)))))
    depth = [read(model, ragged(model))[1].layers_read for model in (alone, both)]
    assert depth[1].sum() < depth[0].sum()


def test_padding_queries_have_no_say():
    """Scores are sums over the queries of the text: those of a batch are those of the text."""
    model = fewer.attach(tiny(), SpAtten())
    batch = ragged(model)
    with fewer.record() as traces, torch.no_grad():
        model(**batch)
        model(**{name: values[1:2] for name, values in batch.items()})
    together, alone = (trace.carried["tokens"] for trace in traces)
    torch.testing.assert_close(together.view(5, 12)[1], alone)
    heads = fewer.attachment(model).spec.heads
    assert float(alone.sum()) == pytest.approx(
        heads * sum(x.queries.sum() for x in traces[1].layers[:2])
    )
