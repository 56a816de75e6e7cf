import json

import pytest
import torch

import fewer
from fewer import LTP, Dense
from fewer.core.stack import Stack
from fewer.hf.config import method_from, method_to
from fewer.methods.combined import MagicPyramid
from fewer.methods.exits import PABEE, EarlyExit, FastBERT
from fewer.training.trainer import training_only
from tests.tiny import LENGTHS, ragged, text, tiny
from tests.unit.methods.exits.parts import lesson, read

METHOD = MagicPyramid(pruning=LTP(final_threshold=0.2), exits=FastBERT())


def _model(method=METHOD, threshold=None):
    model = tiny(layers=6)
    torch.manual_seed(1)
    fewer.attach(model, method)
    exits = _policy(model).parts[1]
    with torch.no_grad():
        for parameter in exits.parameters():
            parameter.mul_(4.0)
    if threshold is not None:
        exits.threshold.fill_(threshold)
    return model


def _policy(model):
    return fewer.attachment(model).policy


def _trained(model, phase):
    with training_only(model, phase):
        names = {name for name, one in model.named_parameters() if one.requires_grad}
    kinds = ("policy.parts.0", "policy.parts.1")
    own = {kind for kind in kinds for name in names if kind in name}
    return own | {"model" for name in names if "fewer" not in name}


def test_the_steps_after_the_dense_one_are_soft_hard_and_exits():
    phases = METHOD.phases()
    assert [(one.name, one.apply, one.part) for one in phases] == [
        ("soft-0", "soften", (0,)),
        ("hard-0", "compact", (0,)),
        ("exits-1", "compact", (1,)),
    ]
    assert [one.task for one in phases] == [True, True, False]
    assert [one.regularise for one in phases] == [True, False, True]


def test_each_step_trains_what_the_paper_says():
    """Soft: model and thresholds; hard: the model; exits: their heads alone."""
    model = _model()
    assert [_trained(model, phase) for phase in METHOD.phases()] == [
        {"model", "policy.parts.0"},
        {"model"},
        {"policy.parts.1"},
    ]


def test_together_everything_trains_in_one_phase():
    method = MagicPyramid(joint_epochs=4.0)
    (phase,) = method.phases()
    assert (phase.name, phase.apply, phase.epochs, phase.part) == ("joint", "soften", 4.0, ())
    assert (phase.learning_rate, phase.policy_learning_rate) == (2e-5, (1e-4, 1e-3))
    assert phase.regularise
    assert phase.calibrate
    assert phase.task
    assert _trained(_model(method), phase) == {"model", "policy.parts.0", "policy.parts.1"}


def test_exits_are_silent_while_pruning_trains_and_tokens_leave_while_exits_train():
    model = _model(threshold=2.0)
    soft, _, exits = METHOD.phases()
    batch = ragged(model)
    plain = fewer.attach(tiny(layers=6), METHOD.pruning)
    with _policy(model).during(soft):
        logits, trace = read(model, batch)
        assert trace.exit_outputs == []
        assert torch.equal(logits, read(plain, batch)[0])
    with _policy(model).during(exits):
        _, trace = read(model, batch)
        assert (trace.layers_read[:, 0] == 1).all()
    assert (read(model, batch)[1].layers_read[:, 0] == 1).all()


def test_tokens_and_texts_leave_in_one_pass():
    """The tokens that stay are LTP's, as far as a text reads; the rest of it leaves whole."""
    model = _model(
        MagicPyramid(pruning=METHOD.pruning, exits=FastBERT(layers=(4, 5), head="linear"))
    )
    batch = ragged(model)
    pruned = read(fewer.attach(tiny(layers=6), METHOD.pruning), batch)[1].layers_read
    dial = _policy(model).dial()
    assert dial.value is _policy(model).parts[1].threshold

    def kinds(threshold):
        dial.value.fill_(threshold)
        depths = read(model, batch)[1].layers_read[:, 0]
        return len(depths.unique()) + bool(depths.max() == 6)

    dial.value.fill_(max(torch.linspace(0.02, 1.0, 50).tolist(), key=kinds))
    logits, trace = read(model, batch)
    depth = trace.layers_read[:, :1]
    assert len(depth.unique()) > 1
    assert torch.equal(trace.layers_read, torch.minimum(pruned, depth))
    assert ((trace.layers_read > 0) & (pruned < depth)).any()
    assert (depth.squeeze(1) < pruned[:, 0]).any()
    for row, length in enumerate(LENGTHS):
        alone, alone_trace = read(model, text(batch, row))
        torch.testing.assert_close(logits[row : row + 1], alone, atol=1e-5, rtol=0)
        assert torch.equal(trace.layers_read[row, :length], alone_trace.layers_read[0])
    own = fewer.attachment(model).shape
    both = float(own.share(trace))
    dial.value.fill_(0.0)
    assert both < float(own.share(read(model, batch)[1]))


def test_removal_played_in_memory_gives_the_same():
    model = _model(threshold=0.5)
    batch = ragged(model)
    (hard, trace), (played, played_trace) = (read(model, batch, how) for how in ("compact", "mask"))
    torch.testing.assert_close(played, hard, atol=1e-5, rtol=0)
    assert torch.equal(trace.layers_read, played_trace.layers_read)


def test_together_the_loss_is_that_of_both():
    method = MagicPyramid(pruning=LTP(final_threshold=0.2, temperature=0.1), joint_epochs=1)
    model, labels = _model(method), torch.tensor([0, 1, 2, 1, 0])
    policy = _policy(model).train()
    with fewer.applying(model, "soften"), fewer.record() as traces:
        logits = model(**ragged(model)).logits
    given = lesson(logits, labels, *traces[0].exit_outputs)
    given.trace.layers += traces[0].layers
    each = [part.loss(given).item() for part in policy.parts]
    assert min(each) > 0
    assert policy.loss(given).item() == pytest.approx(sum(each), rel=1e-6)
    policy.loss(given).backward()
    assert policy.parts[0].threshold.grad.abs().sum() > 0


def test_thresholds_that_were_trained_are_taken_over():
    trained = fewer.attach(tiny(layers=6), METHOD.pruning)
    with torch.no_grad():
        _policy(trained).threshold.fill_(0.07)
    policy = METHOD.build(fewer.attachment(trained).shape)
    assert policy.inherit(METHOD.pruning, _policy(trained)) == ((0,),)
    assert policy.parts[0].threshold.tolist() == pytest.approx([0.07] * 5)
    other = MagicPyramid(pruning=LTP(final_threshold=0.3))
    assert other.build(fewer.attachment(trained).shape).inherit(LTP(), _policy(trained)) == ()


EXAMPLES = [
    MagicPyramid(),
    METHOD,
    MagicPyramid(pruning=LTP(target=0.4, epochs=(2, 3)), exits=PABEE(threshold=2)),
    MagicPyramid(exits=EarlyExit(layers=(2, 4), target=0.5), joint_epochs=2.5),
    Stack((LTP(target=0.5), Stack((Dense(), FastBERT())))),
]


@pytest.mark.parametrize("method", EXAMPLES)
def test_a_method_of_methods_survives_json(method):
    again = method_from(json.loads(json.dumps(method_to(method))))
    assert again == method
    assert hash(again) == hash(method)


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        ({}, MagicPyramid()),
        ({"pruning": {"args": {"target": 0.3}}}, MagicPyramid(pruning=LTP(target=0.3))),
        ({"pruning": {"strength": 2.0}}, MagicPyramid(pruning=LTP(target=0.5, strength=2.0))),
        ({"exits": {"name": "pabee"}}, MagicPyramid(exits=PABEE())),
        ({"exits": {"threshold": 0.3}}, MagicPyramid(exits=FastBERT(threshold=0.3))),
    ],
)
def test_what_a_description_leaves_out_is_as_by_default(args, wanted):
    assert method_from({"name": "magic_pyramid", "args": args}) == wanted


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"pruning": {"targt": 0.3}}, "method 'ltp': setting 'targt' is unknown"),
        ({"exits": {"name": "fastbrt"}}, "did you mean 'fastbert'"),
        ({"exits": {"threshold": 5.0}}, "threshold is 5.0, wanted 0 to 1"),
        ({"joint_epochs": 0}, "joint_epochs is 0, wanted a positive number"),
        ({"exits": None}, "wanted at least one method"),
    ],
)
def test_a_bad_description_says_what_was_wanted(args, message):
    with pytest.raises(ValueError, match=message):
        method_from({"name": "magic_pyramid", "args": args})


def test_a_saved_pyramid_is_loaded_whole(tmp_path):
    model = _model(threshold=0.25)
    fewer.save(model, tmp_path)
    loaded = fewer.load(tmp_path, precision=None)
    assert fewer.attachment(loaded).method == METHOD
    batch = ragged(model)
    (wanted, trace), (found, loaded_trace) = read(model, batch), read(loaded, batch)
    assert torch.equal(found, wanted)
    assert torch.equal(loaded_trace.layers_read, trace.layers_read)
