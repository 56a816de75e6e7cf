import json

import pytest
import torch

import fewer
from fewer import LTP, Dense
from fewer.core.stack import Stack
from fewer.hf.attach import running
from fewer.hf.side_file import method_from, method_to
from fewer.methods.combined import MagicPyramid
from fewer.methods.exits import PABEE, EarlyExit, FastBERT
from fewer.training.trainer import training_only
from tests.tiny import LENGTHS, ragged, text, tiny
from tests.unit.methods.exits.parts import read, training_batch

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


def _find_trained(model, phase):
    with training_only(model, phase):
        names = {name for name, value in model.named_parameters() if value.requires_grad}
    parts = ("policy.parts.0", "policy.parts.1")
    trained = {part for part in parts for name in names if part in name}
    return trained | {"model" for name in names if "fewer" not in name}


def test_the_steps_after_the_dense_one_are_soft_hard_and_exits():
    phases = METHOD.phases()
    assert [(phase.name, phase.apply, phase.part) for phase in phases] == [
        ("soft-0", "soften", (0,)),
        ("hard-0", "compact", (0,)),
        ("exits-1", "observe", (1,)),
    ]
    assert [phase.task for phase in phases] == [True, True, False]
    assert [phase.regularise for phase in phases] == [True, False, True]


def test_each_step_trains_as_in_the_paper():
    """Soft: model and thresholds; hard: the model; exits: their heads alone."""
    model = _model()
    assert [_find_trained(model, phase) for phase in METHOD.phases()] == [
        {"model", "policy.parts.0"},
        {"model"},
        {"policy.parts.1"},
    ]


def test_joint_training_is_one_phase_for_all_parameters():
    method = MagicPyramid(joint_epochs=4.0)
    (phase,) = method.phases()
    assert (phase.name, phase.apply, phase.epochs, phase.part) == ("joint", "soften", 4.0, ())
    assert (phase.learning_rate, phase.policy_learning_rate) == (2e-5, (1e-4, 1e-3))
    assert phase.regularise
    assert phase.calibrate
    assert phase.task
    assert _find_trained(_model(method), phase) == {"model", "policy.parts.0", "policy.parts.1"}


def _run(model, phase, batch):
    """Run a batch as a phase does: the logits and the trace."""
    with torch.no_grad(), running(model, phase), fewer.record() as traces:
        logits = model(**batch).logits
    return logits, traces[0]


def test_while_pruning_trains_no_exit_is_computed():
    model = _model(threshold=2.0)
    pruning = fewer.attach(tiny(layers=6), METHOD.pruning)
    batch = ragged(model)
    for phase, pruning_phase in zip(METHOD.phases()[:2], METHOD.pruning.phases(), strict=True):
        logits, trace = _run(model, phase, batch)
        assert trace.exit_outputs == []
        assert torch.equal(logits, _run(pruning, pruning_phase, batch)[0])


def test_while_exits_train_tokens_are_pruned_and_no_text_exits():
    model = _model(threshold=2.0)
    batch = ragged(model)
    pruned = read(fewer.attach(tiny(layers=6), METHOD.pruning), batch)[1].layers_read
    _, trace = _run(model, METHOD.phases()[2], batch)
    assert torch.equal(trace.layers_read, pruned)
    assert (pruned[batch["attention_mask"].bool()] < 6).any()
    assert (trace.layers_read[:, 0] == 6).all()
    assert [output.exited for output in trace.exit_outputs] == [None] * 5
    assert (read(model, batch)[1].layers_read[:, 0] == 1).all()


def test_tokens_are_pruned_and_texts_exit_in_one_pass():
    """LTP prunes the same tokens up to the exit of a text, which removes all others."""
    model = _model(
        MagicPyramid(pruning=METHOD.pruning, exits=FastBERT(layers=(4, 5), head="linear"))
    )
    batch = ragged(model)
    pruned = read(fewer.attach(tiny(layers=6), METHOD.pruning), batch)[1].layers_read
    points = _policy(model).operating_points()
    assert points.value is _policy(model).parts[1].threshold

    def count_depths(threshold):
        points.value.fill_(threshold)
        depths = read(model, batch)[1].layers_read[:, 0]
        return len(depths.unique()) + bool(depths.max() == 6)

    points.value.fill_(max(torch.linspace(0.02, 1.0, 50).tolist(), key=count_depths))
    logits, trace = read(model, batch)
    depth = trace.layers_read[:, :1]
    assert len(depth.unique()) > 1
    assert torch.equal(trace.layers_read, torch.minimum(pruned, depth))
    assert ((trace.layers_read > 0) & (pruned < depth)).any()
    assert (depth.squeeze(1) < pruned[:, 0]).any()
    for row, length in enumerate(LENGTHS):
        single, single_trace = read(model, text(batch, row))
        torch.testing.assert_close(logits[row : row + 1], single, atol=1e-5, rtol=0)
        assert torch.equal(trace.layers_read[row, :length], single_trace.layers_read[0])
    spec = fewer.attachment(model).spec
    ratio = float(spec.flops_ratio(trace))
    points.value.fill_(0.0)
    assert ratio < float(spec.flops_ratio(read(model, batch)[1]))


def test_masking_gives_the_same_as_removal():
    model = _model(threshold=0.5)
    batch = ragged(model)
    (compact, trace), (masked, masked_trace) = (
        read(model, batch, apply) for apply in ("compact", "mask")
    )
    torch.testing.assert_close(masked, compact, atol=1e-5, rtol=0)
    assert torch.equal(trace.layers_read, masked_trace.layers_read)


def test_in_joint_training_the_loss_is_the_sum_of_both():
    method = MagicPyramid(pruning=LTP(final_threshold=0.2, temperature=0.1), joint_epochs=1)
    model, labels = _model(method), torch.tensor([0, 1, 2, 1, 0])
    policy, (phase,) = _policy(model), method.phases()
    with running(model, phase), fewer.record() as traces:
        logits = model(**ragged(model)).logits
    batch = training_batch(logits, labels, *traces[0].exit_outputs)
    batch.trace.layers += traces[0].layers
    losses = [part.loss(batch).item() for part in policy.parts]
    assert min(losses) > 0
    assert policy.loss(batch).item() == pytest.approx(sum(losses), rel=1e-6)
    policy.loss(batch).backward()
    assert policy.parts[0].threshold.grad.abs().sum() > 0


def test_trained_thresholds_are_inherited():
    trained = fewer.attach(tiny(layers=6), METHOD.pruning)
    with torch.no_grad():
        _policy(trained).threshold.fill_(0.07)
    policy = METHOD.build(fewer.attachment(trained).spec)
    assert policy.inherit(METHOD.pruning, _policy(trained)) == ((0,),)
    assert policy.parts[0].threshold.tolist() == pytest.approx([0.07] * 5)
    other = MagicPyramid(pruning=LTP(final_threshold=0.3))
    assert other.build(fewer.attachment(trained).spec).inherit(LTP(), _policy(trained)) == ()


EXAMPLES = [
    MagicPyramid(),
    METHOD,
    MagicPyramid(pruning=LTP(target=0.4, epochs=(2, 3)), exits=PABEE(threshold=2)),
    MagicPyramid(exits=EarlyExit(layers=(2, 4), target=0.5), joint_epochs=2.5),
    Stack((LTP(target=0.5), Stack((Dense(), FastBERT())))),
]


@pytest.mark.parametrize("method", EXAMPLES)
def test_a_method_of_methods_survives_json(method):
    loaded = method_from(json.loads(json.dumps(method_to(method))))
    assert loaded == method
    assert hash(loaded) == hash(method)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({}, MagicPyramid()),
        ({"pruning": {"args": {"target": 0.3}}}, MagicPyramid(pruning=LTP(target=0.3))),
        ({"pruning": {"strength": 2.0}}, MagicPyramid(pruning=LTP(target=0.5, strength=2.0))),
        ({"exits": {"name": "pabee"}}, MagicPyramid(exits=PABEE())),
        ({"exits": {"threshold": 0.3}}, MagicPyramid(exits=FastBERT(threshold=0.3))),
    ],
)
def test_settings_missing_in_a_description_are_the_defaults(args, expected):
    assert method_from({"name": "magic_pyramid", "args": args}) == expected


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"pruning": {"targt": 0.3}}, "setting must"),
        ({"exits": {"name": "fastbrt"}}, "did you mean 'fastbert'"),
        ({"exits": {"threshold": 5.0}}, "threshold must be from 0 to 1 .*; got 5.0"),
        ({"joint_epochs": 0}, "joint_epochs must"),
        ({"exits": None}, "exits must"),
    ],
)
def test_a_bad_description_is_refused_by_option(args, message):
    with pytest.raises(ValueError, match=message):
        method_from({"name": "magic_pyramid", "args": args})


def test_a_saved_pyramid_is_loaded_with_both_parts(tmp_path):
    model = _model(threshold=0.25)
    fewer.save(model, tmp_path)
    loaded = fewer.load(tmp_path, precision=None)
    assert fewer.attachment(loaded).method == METHOD
    batch = ragged(model)
    (expected, trace), (logits, loaded_trace) = read(model, batch), read(loaded, batch)
    assert torch.equal(logits, expected)
    assert torch.equal(loaded_trace.layers_read, trace.layers_read)
