import json
import math

import pytest
import torch

import fewer
from fewer.core.cost import Task
from fewer.core.packed import Packed
from fewer.hf.attach import running
from fewer.hf.side_file import method_from, method_to
from fewer.methods.exits import SENTEE, TOKEE
from fewer.methods.exits.criteria import normalised_entropy
from tests.batches import calibration_data
from tests.tiny import LENGTHS, ragged, real, text, tiny
from tests.unit.methods.exits.parts import (
    half_open,
    opened,
    packed,
    read,
    spec,
    training_batch,
    view,
)

LAYERS = 6
POOLS = ("max", "mean")
every_pool = pytest.mark.parametrize("pool", POOLS)


def _model(threshold=None, pool="max", **settings):
    return opened(SENTEE(pool=pool), threshold, "Token", layers=LAYERS, **settings)


def _half(pool="max", **settings):
    return half_open(SENTEE(pool=pool), ragged(tiny()), "Token", layers=LAYERS, **settings)


def _decide(margins, lengths, threshold, pool):
    """Let an exit decide whose tags have these margins between two classes."""
    policy = SENTEE(pool=pool).build(spec(labels=2, task=Task.TOKEN, width=1))
    with torch.no_grad():
        policy.heads.maps[0].weight.copy_(torch.tensor([[1.0], [0.0]]))
        policy.heads.maps[0].bias.zero_()
    policy.threshold.fill_(threshold)
    tokens: Packed = packed(lengths, width=1).replace(hidden=torch.tensor(margins)[:, None])
    return policy.decide(view(tokens))


# margins of 0, 1 and 3 between two classes, and their normalised entropies
MARGINS = torch.tensor([0.0, 1.0, 3.0])
UNCERTAINTIES = normalised_entropy(torch.stack((MARGINS, torch.zeros(3)), 1)).tolist()


def test_the_margins_have_the_expected_uncertainties():
    p = 1 / (1 + math.exp(-1))
    by_hand = -(p * math.log2(p) + (1 - p) * math.log2(1 - p))
    assert pytest.approx([1.0, by_hand, 0.27536], abs=1e-4) == UNCERTAINTIES


@pytest.mark.parametrize("threshold", [0.2, 0.3, 0.83, 0.9, 1.0])
def test_a_sentence_exits_when_its_least_certain_tag_is_certain_enough(threshold):
    """The ends have the margin 0, the largest uncertainty, and do not count."""
    decision = _decide([0.0, 3.0, 1.0, 0.0, 0.0, 3.0, 0.0], (4, 3), threshold, "max")
    assert decision.exits.tolist() == [UNCERTAINTIES[1] < threshold, UNCERTAINTIES[2] < threshold]
    assert (
        decision.exit_outputs[0].exited.tolist()
        == [decision.exits[0]] * 4 + [decision.exits[1]] * 3
    )


def test_the_mean_is_over_the_tags():
    """Of the uncertainties of two words, not of two words and two ends that have no tag."""
    mean = (UNCERTAINTIES[1] + UNCERTAINTIES[2]) / 2
    for threshold in (mean - 0.01, mean + 0.01):
        decision = _decide([0.0, 3.0, 1.0, 0.0], (4,), threshold, "mean")
        assert decision.exits.tolist() == [mean < threshold]


@every_pool
def test_a_sentence_without_words_exits_at_once_unless_no_sentence_may(pool):
    for threshold, exits in ((0.0, False), (0.01, True)):
        decision = _decide([0.0, 0.0, 0.0], (1, 2), threshold, pool)
        assert decision.exits.tolist() == [exits] * 2


@every_pool
@pytest.mark.parametrize("threshold", [None, 0.0])
def test_where_no_sentence_exits_the_model_is_the_dense_one_bit_for_bit(pool, threshold):
    model = _model(threshold, pool)
    batch = ragged(model)
    dense, _ = read(fewer.attach(tiny(task="TokenClassification", layers=LAYERS)), batch)
    logits, trace = read(model, batch)
    assert torch.equal(logits, dense)
    assert (real(trace.layers_read[..., None], batch) == LAYERS).all()


def test_at_the_most_eager_threshold_every_sentence_exits_after_the_first_layer():
    model = _model(2.0)
    batch = ragged(model)
    logits, trace = read(model, batch)
    assert torch.equal(trace.layers_read, batch["attention_mask"])
    assert torch.equal(real(logits, batch), trace.exit_outputs[0].logits)
    model_spec = fewer.attachment(model).spec
    lengths = torch.tensor(LENGTHS).float()
    assert trace.head_flops.tolist() == (lengths * 2 * 16 * 3).tolist()
    expected = model_spec.dense_flops(lengths) / LAYERS + trace.head_flops
    torch.testing.assert_close(model_spec.flops(trace), expected)


@every_pool
@pytest.mark.parametrize("backbone", ["bert", "distilbert", "modernbert"])
def test_a_batch_equals_its_sentences_one_by_one(pool, backbone):
    model = _half(pool, backbone=backbone)
    batch = ragged(model)
    logits, trace = read(model, batch)
    assert len(set(trace.layers_read[:, 0].tolist())) > 1
    for row, length in enumerate(LENGTHS):
        single, single_trace = read(model, text(batch, row))
        torch.testing.assert_close(logits[row, :length], single[0], atol=1e-5, rtol=0)
        assert torch.equal(trace.layers_read[row, :length], single_trace.layers_read[0])
        assert len(set(trace.layers_read[row, :length].tolist())) == 1  # all tokens exit together


def test_the_tags_are_those_of_the_layer_a_sentence_exited_after():
    model = _half()
    batch = ragged(model)
    logits, trace = read(model, batch)
    flat, depth = logits.flatten(0, 1), trace.layers_read.flatten()
    for output in trace.exit_outputs:
        assert (depth[output.rows] > output.layer).all()
        rows = output.rows[depth[output.rows] == output.layer + 1]
        assert torch.equal(output.rows[output.exited], rows)
        assert torch.equal(flat[rows], output.logits[output.exited])


def test_masking_gives_the_same_as_removal():
    model = _half()
    batch = ragged(model)
    (compact, trace), (masked, masked_trace) = (
        read(model, batch, apply) for apply in ("compact", "mask")
    )
    torch.testing.assert_close(real(masked, batch), real(compact, batch), atol=1e-5, rtol=0)
    assert torch.equal(trace.layers_read, masked_trace.layers_read)
    assert trace.head_flops.tolist() == masked_trace.head_flops.tolist()


@pytest.mark.parametrize("training", [True, False])
def test_while_exits_train_heads_compute_and_no_sentence_exits(training):
    model = _model(2.0).train(training)
    (phase,) = SENTEE().phases()
    with running(model, phase), fewer.record() as traces:
        model(**ragged(model))
    outputs = traces[0].exit_outputs
    assert traces[0].layers_read.max(1).values.tolist() == [LAYERS] * len(LENGTHS)
    assert all(output.exited is None for output in outputs)
    assert [len(output.rows) for output in outputs] == [sum(LENGTHS)] * (LAYERS - 1)


def test_the_loss_is_the_sum_of_the_exits_by_depth_and_reaches_the_model():
    model = _model().eval()
    batch = ragged(model)
    labels = torch.randint(3, batch["input_ids"].shape).masked_fill(
        batch["attention_mask"] == 0, -100
    )
    (phase,) = SENTEE().phases()
    with running(model, phase), fewer.record() as traces:
        logits = model(**batch).logits
    policy, outputs = fewer.attachment(model).policy, traces[0].exit_outputs
    loss = policy.loss(training_batch(logits, labels, *outputs))
    of_tokens = labels[labels != -100]
    expected = sum(
        (number + 1) / LAYERS * torch.nn.functional.cross_entropy(output.logits, of_tokens)
        for number, output in enumerate(outputs)
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert model.bert.embeddings.word_embeddings.weight.grad.abs().sum() > 0


def test_the_one_phase_trains_model_and_heads_and_then_opens_the_exits():
    method = SENTEE(threshold=0.25, epochs=3, learning_rates=(1e-5, 1e-4))
    (phase,) = method.phases()
    assert phase.apply == "observe"
    assert (phase.trains, phase.task, phase.regularise, phase.calibrate) == ("all", *[True] * 3)
    assert (phase.epochs, phase.learning_rate, phase.policy_learning_rate) == (3, 1e-5, 1e-4)
    policy = method.build(spec(task=Task.TOKEN))
    for first, threshold in ((True, 0.0), (False, 0.25)):
        policy.calibrate(phase, calibration_data(lambda: 0.5, first=first))
        assert policy.threshold.item() == threshold


def test_a_target_chooses_the_threshold():
    method = SENTEE(target=0.7)
    policy = method.build(spec(task=Task.TOKEN))
    (phase,) = method.phases()
    policy.calibrate(phase, calibration_data(lambda: 1 - policy.threshold.item()))
    assert policy.threshold.item() == pytest.approx(0.3, abs=0.003)


def test_a_method_survives_json():
    method = SENTEE(layers=(1, 3), pool="mean", target=0.5, learning_rates=(1e-5, 1e-4))
    assert method_from(json.loads(json.dumps(method_to(method)))) == method


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pool": "median"}, "pool must"),
        ({"threshold": 0.1, "target": 0.5}, "threshold must"),
        ({"threshold": -0.5}, "threshold must be from 0 to 1 .*; got -0.5"),
        ({"target": 1.5}, "target must"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SENTEE(**settings)


def _build(method):
    return fewer.attachment(fewer.attach(tiny("bert", "TokenClassification"), method)).policy


def test_heads_that_tokee_has_trained_are_inherited():
    """Its first phase is all of SENTEE's training, so no phase remains."""
    trained = _build(TOKEE())
    trained.threshold.fill_(0.3)
    for threshold, expected in ((None, 0.3), (0.2, 0.2)):
        policy = _build(SENTEE(threshold=threshold))
        assert policy.inherit(TOKEE(), trained) == ((),)
        assert policy.threshold.item() == pytest.approx(expected)
        for linear, trained_linear in zip(policy.heads.maps, trained.heads.maps, strict=True):
            assert torch.equal(linear.weight, trained_linear.weight)


def test_heads_at_other_layers_are_not_inherited():
    trained = _build(TOKEE(layers=(1,)))
    assert _build(SENTEE()).inherit(TOKEE(layers=(1,)), trained) == ()
