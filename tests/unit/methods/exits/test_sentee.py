import json
import math

import pytest
import torch

import fewer
from fewer.core.packed import Packed
from fewer.core.policy import CalibrationData, Phase
from fewer.hf.config import method_from, method_to
from fewer.methods.exits import SENTEE, TOKEE
from fewer.methods.exits.criteria import normalised_entropy
from tests.tiny import LENGTHS, ragged, real, text, tiny
from tests.unit.methods.exits.parts import half_open, lesson, opened, packed, read, shape, view

LAYERS = 6
POOLS = ("max", "mean")
every_pool = pytest.mark.parametrize("pool", POOLS)


def _model(threshold=None, pool="max", **settings):
    return opened(SENTEE(pool=pool), threshold, "Token", layers=LAYERS, **settings)


def _half(pool="max", **settings):
    return half_open(SENTEE(pool=pool), ragged(tiny()), "Token", layers=LAYERS, **settings)


def _said(doubts, lengths, threshold, pool):
    """Let exits decide whose answers are as doubtful as told: two classes, by their margin."""
    policy = SENTEE(pool=pool).build(shape(labels=2, answers="token", width=1)).eval()
    with torch.no_grad():
        policy.heads.maps[0].weight.copy_(torch.tensor([[1.0], [0.0]]))
        policy.heads.maps[0].bias.zero_()
    policy.threshold.fill_(threshold)
    tokens: Packed = packed(lengths, width=1).with_hidden(torch.tensor(doubts)[:, None])
    return policy.decide(view(tokens))


# margins of 0, 1 and 3 between two classes, and their normalised entropies
MARGINS = torch.tensor([0.0, 1.0, 3.0])
DOUBTS = normalised_entropy(torch.stack((MARGINS, torch.zeros(3)), 1)).tolist()


def test_the_margins_have_the_doubts_they_should():
    p = 1 / (1 + math.exp(-1))
    by_hand = -(p * math.log2(p) + (1 - p) * math.log2(1 - p))
    assert pytest.approx([1.0, by_hand, 0.27536], abs=1e-4) == DOUBTS


@pytest.mark.parametrize("threshold", [0.2, 0.3, 0.83, 0.9, 1.0])
def test_a_sentence_leaves_when_its_most_doubtful_tag_is_sure_enough(threshold):
    """The ends say 0, which is as doubtful as can be, and do not count."""
    decision = _said([0.0, 3.0, 1.0, 0.0, 0.0, 3.0, 0.0], (4, 3), threshold, "max")
    assert decision.leaves.tolist() == [DOUBTS[1] < threshold, DOUBTS[2] < threshold]
    assert (
        decision.exit_outputs[0].final.tolist()
        == [decision.leaves[0]] * 4 + [decision.leaves[1]] * 3
    )


def test_the_mean_is_over_the_tags():
    """Of the doubts of two words, not of two words and two ends that have no tag."""
    mean = (DOUBTS[1] + DOUBTS[2]) / 2
    for threshold in (mean - 0.01, mean + 0.01):
        decision = _said([0.0, 3.0, 1.0, 0.0], (4,), threshold, "mean")
        assert decision.leaves.tolist() == [mean < threshold]


@every_pool
def test_a_sentence_without_words_leaves_at_once_unless_nobody_may(pool):
    for threshold, leaves in ((0.0, False), (0.01, True)):
        decision = _said([0.0, 0.0, 0.0], (1, 2), threshold, pool)
        assert decision.leaves.tolist() == [leaves] * 2


@every_pool
@pytest.mark.parametrize("threshold", [None, 0.0])
def test_where_nobody_leaves_the_model_is_the_plain_one_bit_for_bit(pool, threshold):
    model = _model(threshold, pool)
    batch = ragged(model)
    plain, _ = read(fewer.attach(tiny(task="TokenClassification", layers=LAYERS)), batch)
    logits, trace = read(model, batch)
    assert torch.equal(logits, plain)
    assert (real(trace.layers_read[..., None], batch) == LAYERS).all()


def test_at_the_most_eager_threshold_everybody_leaves_after_the_first_layer():
    model = _model(2.0)
    batch = ragged(model)
    logits, trace = read(model, batch)
    assert torch.equal(trace.layers_read, batch["attention_mask"])
    assert torch.equal(real(logits, batch), trace.exit_outputs[0].logits)
    shape_ = fewer.attachment(model).shape
    lengths = torch.tensor(LENGTHS).float()
    assert trace.head_flops.tolist() == (lengths * 2 * 16 * 3).tolist()
    wanted = shape_.dense_flops(lengths) / LAYERS + trace.head_flops
    torch.testing.assert_close(shape_.flops(trace), wanted)


@every_pool
@pytest.mark.parametrize("backbone", ["bert", "distilbert", "modernbert"])
def test_a_batch_equals_its_sentences_one_by_one(pool, backbone):
    model = _half(pool, backbone=backbone)
    batch = ragged(model)
    logits, trace = read(model, batch)
    assert len(set(trace.layers_read[:, 0].tolist())) > 1
    for row, length in enumerate(LENGTHS):
        alone, alone_trace = read(model, text(batch, row))
        torch.testing.assert_close(logits[row, :length], alone[0], atol=1e-5, rtol=0)
        assert torch.equal(trace.layers_read[row, :length], alone_trace.layers_read[0])
        assert len(set(trace.layers_read[row, :length].tolist())) == 1  # all leave together


def test_the_tags_are_those_of_the_layer_a_sentence_left_after():
    model = _half()
    batch = ragged(model)
    logits, trace = read(model, batch)
    flat, depth = logits.flatten(0, 1), trace.layers_read.flatten()
    for said in trace.exit_outputs:
        assert (depth[said.rows] > said.layer).all()
        left = said.rows[depth[said.rows] == said.layer + 1]
        assert torch.equal(said.rows[said.final], left)
        assert torch.equal(flat[left], said.logits[said.final])


def test_removal_played_in_memory_gives_the_same():
    model = _half()
    batch = ragged(model)
    (hard, trace), (played, played_trace) = (read(model, batch, how) for how in ("compact", "mask"))
    torch.testing.assert_close(real(played, batch), real(hard, batch), atol=1e-5, rtol=0)
    assert torch.equal(trace.layers_read, played_trace.layers_read)
    assert trace.head_flops.tolist() == played_trace.head_flops.tolist()


def test_in_training_mode_exits_only_speak():
    model = _model(2.0).train()
    with fewer.record() as traces:
        model(**ragged(model))
    assert traces[0].layers_read.max(1).values.tolist() == [LAYERS] * len(LENGTHS)
    assert all(said.final is None for said in traces[0].exit_outputs)
    assert [len(said.rows) for said in traces[0].exit_outputs] == [sum(LENGTHS)] * (LAYERS - 1)


def test_the_loss_is_the_sum_of_the_exits_by_depth_and_reaches_the_model():
    model = _model().eval()
    batch = ragged(model)
    labels = torch.randint(3, batch["input_ids"].shape).masked_fill(
        batch["attention_mask"] == 0, -100
    )
    with fewer.record() as traces:
        output = model(**batch)
    policy = fewer.attachment(model).policy
    loss = policy.loss(lesson(output.logits, labels, *traces[0].exit_outputs))
    known = labels[labels != -100]
    wanted = sum(
        (number + 1) / LAYERS * torch.nn.functional.cross_entropy(said.logits, known)
        for number, said in enumerate(traces[0].exit_outputs)
    )
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    loss.backward()
    assert model.bert.embeddings.word_embeddings.weight.grad.abs().sum() > 0


def test_the_one_phase_trains_model_and_heads_and_then_opens_the_exits():
    method = SENTEE(threshold=0.25, epochs=3, learning_rates=(1e-5, 1e-4))
    (phase,) = method.phases()
    assert (phase.trains, phase.task, phase.regularise, phase.calibrate) == ("all", *[True] * 3)
    assert (phase.epochs, phase.learning_rate, phase.policy_learning_rate) == (3, 1e-5, 1e-4)
    policy = method.build(shape(answers="token"))
    for first, wanted in ((True, 0.0), (False, 0.25)):
        policy.calibrate(phase, CalibrationData(first, lambda: 0.5, lambda: iter(())))
        assert policy.threshold.item() == wanted


def test_a_target_chooses_the_threshold():
    policy = SENTEE(target=0.7).build(shape(answers="token"))
    phase = Phase("exits", "compact", "all", 1, 1e-3)
    share = lambda: 1 - policy.threshold.item()  # noqa: E731
    policy.calibrate(phase, CalibrationData(False, share, lambda: iter(())))
    assert policy.threshold.item() == pytest.approx(0.3, abs=0.003)


def test_a_method_survives_json():
    method = SENTEE(layers=(1, 3), pool="mean", target=0.5, learning_rates=(1e-5, 1e-4))
    assert method_from(json.loads(json.dumps(method_to(method)))) == method


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pool": "median"}, "pool is 'median', wanted 'max' or 'mean'"),
        ({"threshold": 0.1, "target": 0.5}, "threshold and target are both given"),
        ({"threshold": -0.5}, "threshold is -0.5, wanted 0 to 1"),
        ({"target": 1.5}, "target is 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SENTEE(**settings)


def _policy_of(method):
    return fewer.attachment(fewer.attach(tiny("bert", "TokenClassification"), method)).policy


def test_heads_that_tokee_has_trained_are_taken_over():
    """Its first phase is all of SENTEE's training, so nothing is left to train."""
    trained = _policy_of(TOKEE())
    trained.threshold.fill_(0.3)
    for threshold, wanted in ((None, 0.3), (0.2, 0.2)):
        own = fewer.attachment(
            fewer.attach(tiny("bert", "TokenClassification"), SENTEE(threshold=threshold))
        ).policy
        assert own.inherit(TOKEE(), trained) == ((),)
        assert own.threshold.item() == pytest.approx(wanted)
        for mine, theirs in zip(own.heads.maps, trained.heads.maps, strict=True):
            assert torch.equal(mine.weight, theirs.weight)


def test_heads_at_other_layers_are_not_taken_over():
    trained = fewer.attachment(
        fewer.attach(tiny("bert", "TokenClassification"), TOKEE(layers=(1,)))
    ).policy
    own = fewer.attachment(fewer.attach(tiny("bert", "TokenClassification"), SENTEE())).policy
    assert own.inherit(TOKEE(layers=(1,)), trained) == ()
