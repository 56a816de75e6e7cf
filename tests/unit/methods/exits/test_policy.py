"""Exits of whole texts, whichever head, criterion and training."""

import dataclasses
import pickle
from itertools import pairwise

import pytest
import torch

import fewer
from fewer import LTP
from fewer.core.decision import ExitOutput
from fewer.hf.attach import running
from fewer.methods.combined import Stack
from fewer.methods.exits import PABEE, BERxiT, DeeBERT, EarlyExit, FastBERT, RightTool
from fewer.methods.exits.criteria import CRITERIA
from fewer.methods.exits.heads import HEADS
from fewer.methods.exits.threshold import fitted_temperature
from fewer.training.trainer import training_only
from tests.batches import calibration_data
from tests.tiny import LENGTHS, ragged, text, tiny
from tests.unit.methods.exits.parts import half_open, opened, read, training_batch

LAYERS = 6
METHODS = {
    "right_tool": RightTool(),
    "deebert": DeeBERT(),
    "fastbert": FastBERT(),
    "pabee": PABEE(),
    "berxit": BERxiT(),
    "patient": EarlyExit(criterion="patient_confidence", patience=2, head="linear"),
    "some": EarlyExit(layers=(2, 5), head="pooled"),
}
every_method = pytest.mark.parametrize("name", METHODS)
LABELS = torch.tensor([0, 1, 2, 1, 0])


def _model(name, threshold=None, **settings):
    return opened(METHODS[name], threshold, layers=LAYERS, **settings)


def _half(name, **settings):
    return half_open(METHODS[name], ragged(tiny()), layers=LAYERS, **settings)


def _policy(model):
    return fewer.attachment(model).policy


def _depth(trace):
    """Return how many layers each text was computed in."""
    return trace.layers_read[:, 0].tolist()


def _criterion(name):
    return CRITERIA[METHODS[name].criterion]


@pytest.mark.parametrize(
    ("method", "poolers"), [(DeeBERT(), 5), (BERxiT(), 5), (PABEE(), 1), (RightTool(), 1)]
)
def test_poolers_start_as_copies_of_the_models(method, poolers):
    model = fewer.attach(tiny(layers=LAYERS), method)
    original, copies = model.bert.pooler.dense, list(_policy(model).heads.poolers)
    assert len(copies) == poolers
    for pooler in copies:
        assert torch.equal(pooler.weight, original.weight)
        assert torch.equal(pooler.bias, original.bias)
        assert pooler.weight.data_ptr() != original.weight.data_ptr()


def test_the_poolers_of_a_pyramid_start_as_the_models_too():
    model = fewer.attach(tiny(), Stack((LTP(), DeeBERT())))
    pooler = _policy(model).parts[1].heads.poolers[1]
    assert torch.equal(pooler.weight, model.bert.pooler.dense.weight)


def test_a_folder_of_berxit_with_one_pooler_for_all_exits_answers_as_before(tmp_path):
    """As saved by versions in which that was the default."""
    method = BERxiT(head="shared", threshold=0.4)
    model = opened(method, 0.4, layers=4)
    batch = ragged(model)
    expected, trace = read(model, batch)
    fewer.save(model, tmp_path)
    loaded = fewer.load(tmp_path, precision=None)
    assert fewer.attachment(loaded).method == method
    assert len(_policy(loaded).heads.poolers) == 1
    logits, loaded_trace = read(loaded, batch)
    assert torch.equal(logits, expected)
    assert _depth(loaded_trace) == _depth(trace)


@every_method
@pytest.mark.parametrize("threshold", ["untrained", "never"])
def test_where_no_text_exits_the_model_is_the_dense_one_bit_for_bit(name, threshold):
    model = _model(name, None if threshold == "untrained" else _criterion(name).never_exit)
    batch = ragged(model)
    dense, _ = read(fewer.attach(tiny(layers=LAYERS)), batch)
    logits, trace = read(model, batch)
    assert torch.equal(logits, dense)
    assert _depth(trace) == [LAYERS] * len(LENGTHS)
    has_exits = [
        output.exited is not None and bool(output.exited.any()) for output in trace.exit_outputs
    ]
    assert has_exits == [False] * len(_policy(model).layers)


@every_method
def test_at_the_most_eager_threshold_every_text_exits_at_the_first_exit(name):
    model = _model(name, _criterion(name).always_exit)
    if name == "patient":  # no text exits before the second exit
        return
    batch = ragged(model)
    logits, trace = read(model, batch)
    first = _policy(model).layers[0] + 1
    assert _depth(trace) == [first] * len(LENGTHS)
    assert (len(trace.layers), len(trace.exit_outputs)) == (first, 1)
    assert torch.equal(logits, trace.exit_outputs[0].logits)
    spec = fewer.attachment(model).spec
    layers = torch.stack([spec.layers[n].flops(trace.layers[n]) for n in range(first)]).sum(0)
    assert spec.flops(trace).tolist() == (layers + trace.head_flops).tolist()
    assert trace.head_flops.min() > 0


@every_method
def test_texts_exit_at_different_layers_with_the_logits_of_their_exit(name):
    model = _half(name)
    logits, trace = read(model, ragged(model))
    depth = _depth(trace)
    assert len(set(depth)) > 1
    exit_logits = dict.fromkeys(range(len(LENGTHS)))
    for output in trace.exit_outputs:
        assert output.rows.tolist() == [
            row for row, layers in enumerate(depth) if layers > output.layer
        ]
        for row in output.rows[output.exited].tolist() if output.exited is not None else ():
            assert depth[row] == output.layer + 1
            exit_logits[row] = output.logits[output.rows.tolist().index(row)]
    for row, expected in exit_logits.items():
        assert (expected is None) == (depth[row] == LAYERS)
        assert expected is None or torch.equal(logits[row], expected)


@pytest.mark.parametrize(
    "backbone",
    ["bert", *(pytest.param(name, marks=pytest.mark.slow) for name in ("albert", "modernbert"))],
)
@every_method
def test_a_batch_equals_its_texts_one_by_one(name, backbone):
    model = _half(name, backbone=backbone)
    batch = ragged(model)
    logits, trace = read(model, batch)
    for row in range(len(LENGTHS)):
        single, single_trace = read(model, text(batch, row))
        torch.testing.assert_close(logits[row : row + 1], single, atol=1e-5, rtol=0)
        assert _depth(single_trace) == _depth(trace)[row : row + 1]
        torch.testing.assert_close(trace.head_flops[row : row + 1], single_trace.head_flops)


@every_method
def test_masking_gives_the_same_as_removal(name):
    model = _half(name)
    batch = ragged(model)
    (compact, trace), (masked, masked_trace) = (
        read(model, batch, apply) for apply in ("compact", "mask")
    )
    torch.testing.assert_close(masked, compact, atol=1e-5, rtol=0)
    assert torch.equal(trace.layers_read, masked_trace.layers_read)
    assert trace.head_flops.tolist() == masked_trace.head_flops.tolist()


@every_method
def test_a_pickled_model_has_the_same_logits_and_exits(name):
    model = _half(name)
    loaded, batch = pickle.loads(pickle.dumps(model)), ragged(model)
    (expected, trace), (logits, loaded_trace) = read(model, batch), read(loaded, batch)
    assert torch.equal(logits, expected)
    assert _depth(loaded_trace) == _depth(trace)


@every_method
def test_at_a_stricter_threshold_no_text_exits_earlier(name):
    model = _model(name)
    batch = ragged(model, (3, 12, 2, 7, 5, 9, 4, 8))
    points = _policy(model).operating_points()
    depths = []
    for threshold in (points.never, *points.path, _criterion(name).always_exit):
        points.value.fill_(threshold)
        depths.append(read(model, batch)[1].layers_read[:, 0])
    for strict, eager in pairwise(depths):
        assert (eager <= strict).all()
    assert len({tuple(depth.tolist()) for depth in depths}) > 2


@every_method
def test_while_exits_train_heads_compute_and_no_text_exits(name):
    """Whichever mode the model is in."""
    model = _model(name, _criterion(name).always_exit)
    batch = ragged(model)
    (phase,) = METHODS[name].phases()
    for training in (True, False):
        model.train(training)
        with running(model, phase), fewer.record() as traces:
            logits = model(**batch).logits
        outputs = traces[0].exit_outputs
        assert _depth(traces[0]) == [LAYERS] * len(LENGTHS)
        assert [output.exited for output in outputs] == [None] * len(_policy(model).layers)
        assert all(len(output.rows) == len(LENGTHS) for output in outputs)
        assert logits.requires_grad


@every_method
def test_in_training_mode_outside_of_fit_no_text_exits(name):
    model = _model(name, _criterion(name).always_exit).train()
    with fewer.record() as traces:
        model(**ragged(model))
    assert _depth(traces[0]) == [LAYERS] * len(LENGTHS)
    outputs = traces[0].exit_outputs
    assert [output.exited for output in outputs] == [None] * len(_policy(model).layers)


def _losses(model, step=0):
    """Return the task's and the policy's loss of one pass in the method's phase."""
    (phase,) = fewer.attachment(model).method.phases()
    with running(model.eval(), phase), fewer.record() as traces:
        logits = model(**ragged(model)).logits
    batch = training_batch(logits, LABELS, *traces[0].exit_outputs, step=step)
    return batch.loss(logits, LABELS), _policy(model).loss(batch)


@pytest.mark.parametrize("method", [FastBERT(), DeeBERT(), DeeBERT(head="mixed")])
def test_in_a_frozen_phase_no_gradient_reaches_the_model(method):
    model = opened(method, layers=LAYERS)
    (phase,) = method.phases()
    assert (phase.trains, phase.task) == ("policy", False)
    with training_only(model, phase):
        _losses(model)[1].backward()
    of_policy = {id(parameter) for parameter in _policy(model).parameters()}
    for parameter_name, parameter in model.named_parameters():
        if id(parameter) in of_policy:
            assert parameter.grad is not None, parameter_name
        else:
            assert parameter.grad is None, parameter_name
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_in_a_joint_phase_the_model_learns_from_the_exits():
    model = opened(PABEE(), layers=LAYERS)
    _losses(model)[1].backward()
    below = model.bert.encoder.layer[LAYERS - 2].output.dense.weight.grad
    above = model.bert.encoder.layer[LAYERS - 1].output.dense.weight.grad
    assert below.abs().sum() > 0
    assert above is None  # no exit after the last layer but the model's own


def test_alternating_exits_learn_at_every_second_step():
    """The learned criterion learns at every step."""
    model = opened(BERxiT(), layers=LAYERS)
    even, odd = (_losses(model, step)[1] for step in (0, 1))
    policy = _policy(model)
    parameters = [policy.doubt.weight, policy.heads.classifiers[0].weight]
    for loss, learns in ((even, False), (odd, True)):
        grads = torch.autograd.grad(loss, parameters)
        assert grads[0].abs().sum() > 0
        assert bool(grads[1].abs().sum() > 0) == learns
    assert _losses(model, 2)[1].item() == even.item() < odd.item()


def test_the_learned_criterion_does_not_train_the_classifiers():
    model = opened(BERxiT(), layers=2)
    policy = _policy(model)
    (grad,) = torch.autograd.grad(
        _losses(model)[1], policy.heads.classifiers[0].weight, allow_unused=True
    )
    assert grad is None or not grad.any()


def _calibrate(method, logits):
    """Calibrate before and after a phase whose exits all compute `logits`."""
    policy = _policy(opened(method, layers=3))

    def batches():
        rows = torch.arange(len(LABELS))
        outputs = [ExitOutput(n, rows, logits / policy.temperature[n]) for n in range(2)]
        yield training_batch(logits, LABELS, *outputs)

    (phase,) = method.phases()
    for first in (True, False):
        threshold = policy.threshold.item()
        policy.calibrate(phase, calibration_data(lambda: 0.5, batches, first=first))
        if first:
            assert policy.threshold.item() == threshold == policy.criterion.never_exit
    return policy


def test_calibration_opens_the_exits_after_the_phase_and_not_before():
    logits = torch.randn(5, 3)
    assert _calibrate(FastBERT(threshold=0.3), logits).threshold.item() == pytest.approx(0.3)
    assert _calibrate(DeeBERT(), logits).threshold.item() == pytest.approx(0.1)
    assert _calibrate(PABEE(threshold=4), logits).threshold.item() == 4.0


def test_calibration_fits_each_temperature_to_logits_before_division():
    """Calibrating again from another temperature ends at the same one."""
    logits = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 0, 1]), 3) * 4.0
    policy = _calibrate(RightTool(), logits)
    assert (policy.temperature > 1.5).all()  # two of five are wrong, and as certain as the others
    assert policy.temperature[0].item() == pytest.approx(policy.temperature[1].item())
    assert _calibrate(FastBERT(), logits).temperature.tolist() == [1.0, 1.0]
    expected = policy.temperature.clone()
    policy.temperature.fill_(9.0)
    (phase,) = policy.method.phases()
    outputs = [ExitOutput(n, torch.arange(5), logits / 9.0) for n in range(2)]
    batch = training_batch(logits, LABELS, *outputs)
    policy.calibrate(phase, calibration_data(lambda: 0.5, lambda: iter([batch])))
    torch.testing.assert_close(policy.temperature, expected, atol=1e-4, rtol=1e-4)


def test_a_temperature_divides_the_logits_and_changes_when_texts_exit():
    model = opened(EarlyExit(criterion="probability", head="linear"), 0.9, layers=3)
    batch = ragged(model)
    policy = _policy(model)
    policy.threshold.fill_(2.0)
    logits = read(model, batch)[1].exit_outputs[0].logits
    policy.temperature.copy_(torch.tensor([2.0, 1.0]))
    torch.testing.assert_close(read(model, batch)[1].exit_outputs[0].logits, logits / 2)
    policy.threshold.fill_(0.9)
    depths = []
    for temperature in (0.01, 1.0, 100.0):
        policy.temperature.fill_(temperature)
        depths.append(sum(_depth(read(model, batch)[1])))
    assert depths == sorted(depths)
    assert depths[0] < depths[2] == 3 * len(LENGTHS)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("criterion", ["patience", "learned"])
def test_texts_of_a_regression_exit_by_patience_or_the_learned_criterion(head, criterion):
    method = EarlyExit(head=head, criterion=criterion, teacher="labels", tolerance=0.5)
    model = opened(method, layers=LAYERS, num_labels=1)
    batch = ragged(model)
    _policy(model).threshold.fill_(0.5 if criterion == "learned" else 2.0)
    logits, trace = read(model, batch)
    assert logits.shape == (len(LENGTHS), 1)
    for row in range(len(LENGTHS)):
        single, single_trace = read(model, text(batch, row))
        torch.testing.assert_close(logits[row : row + 1], single, atol=1e-5, rtol=0)
        assert _depth(single_trace) == _depth(trace)[row : row + 1]
    if criterion == "patience":
        assert min(_depth(trace)) >= 3  # two exits that agree with the one before


def test_the_learned_criterion_of_a_regression_learns_the_error():
    model = opened(BERxiT(), layers=2, num_labels=1)
    policy, labels = _policy(model), torch.tensor([0.5, 0.0, 1.0, 2.0, -1.0])
    (phase,) = BERxiT().phases()
    with running(model.eval(), phase), fewer.record() as traces:
        logits = model(**ragged(model)).logits
    (output,) = traces[0].exit_outputs
    batch = training_batch(logits, labels, output, step=0)
    uncertainty = torch.sigmoid(policy.doubt(output.features)).squeeze(1)
    error = torch.tanh((output.logits.squeeze(1) - labels).abs())
    expected = (uncertainty - error).square().mean()
    assert policy.loss(batch).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("criterion", ["entropy", "probability", "patient_confidence"])
def test_a_regression_with_a_criterion_that_compares_classes_is_refused(criterion):
    with pytest.raises(ValueError, match=rf"criterion must .* got {criterion!r}"):
        fewer.attach(tiny(num_labels=1), EarlyExit(criterion=criterion))


def test_a_temperature_of_a_regression_is_refused():
    with pytest.raises(ValueError, match="temperature must be False"):
        fewer.attach(tiny(num_labels=1), EarlyExit(criterion="learned", temperature=True))


MULTI_LABEL = {"problem_type": "multi_label_classification", "num_labels": 4}


@pytest.mark.parametrize("teacher", ["labels", "last"])
@pytest.mark.parametrize("criterion", ["normalised_entropy", "learned"])
def test_exits_of_multi_label_models_learn_each_label_alone(teacher, criterion):
    model = fewer.attach(tiny(**MULTI_LABEL), EarlyExit(teacher=teacher, criterion=criterion))
    policy = fewer.attachment(model).policy
    logits = torch.tensor([[2.0, -1.0, 0.5, -3.0], [0.1, 0.2, -0.3, 0.4]])
    targets = torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    features = torch.randn(2, policy.heads.width)
    output = ExitOutput(0, torch.tensor([0, 1]), logits.requires_grad_(), features)
    batch = training_batch(torch.ones(2, 4), targets, output)
    batch = dataclasses.replace(batch, loss=fewer.attachment(model).head.loss)
    loss = policy.loss(batch)
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    soft = torch.full((2, 4), 1.0).sigmoid()
    expected = (
        bce(logits, targets)
        if teacher == "labels"
        else bce(logits, soft) - bce(torch.logit(soft), soft)
    )
    if criterion == "learned":  # of both texts, only the first has all its labels right
        u = policy._uncertainty(output.features)
        expected = expected + (u - torch.tensor([0.0, 1.0])).square().mean()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


@pytest.mark.parametrize("criterion", ["entropy", "normalised_entropy", "probability", "patience"])
def test_texts_exit_a_multi_label_model_with_the_logits_of_their_exit(criterion):
    model = fewer.attach(tiny(**MULTI_LABEL), EarlyExit(criterion=criterion))
    policy = fewer.attachment(model).policy
    batch = ragged(model)
    with torch.inference_mode():
        full = model(**batch).logits
        policy.threshold.fill_(policy.criterion.always_exit)
        with fewer.record() as traces:
            early = model(**batch).logits
    first = next(iter(traces[0].exit_outputs))
    assert full.shape == early.shape
    assert torch.equal(early, first.logits)
    assert not torch.allclose(full, early)


def test_the_temperature_of_independent_labels_is_that_of_their_likelihood():
    probabilities = torch.tensor([[0.2], [0.7]], dtype=torch.float64).expand(2, 1000)
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(2, 1000, generator=generator) < probabilities).double()
    overconfident = 3 * torch.logit(probabilities)
    assert fitted_temperature(overconfident, labels) == pytest.approx(3.0, rel=0.15)
