"""Exits of whole texts, whichever head, criterion and lesson."""

import pickle
from itertools import pairwise

import pytest
import torch

import fewer
from fewer import LTP
from fewer.core.decision import ExitOutput
from fewer.core.policy import CalibrationData, Phase
from fewer.methods.combined import Stack
from fewer.methods.exits import PABEE, BERxiT, DeeBERT, EarlyExit, FastBERT, RightTool
from fewer.methods.exits.criteria import CRITERIA
from fewer.methods.exits.heads import HEADS
from fewer.training.trainer import training_only
from tests.tiny import LENGTHS, ragged, text, tiny
from tests.unit.methods.exits.parts import half_open, lesson, opened, read

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
    """How many layers each text read."""
    return trace.layers_read[:, 0].tolist()


def _extreme(name, which):
    return getattr(CRITERIA[METHODS[name].criterion], which)


@pytest.mark.parametrize(
    ("method", "poolers"), [(DeeBERT(), 5), (BERxiT(), 5), (PABEE(), 1), (RightTool(), 1)]
)
def test_poolers_start_as_copies_of_the_models(method, poolers):
    model = fewer.attach(tiny(layers=LAYERS), method)
    own, started = model.bert.pooler.dense, list(_policy(model).heads.poolers)
    assert len(started) == poolers
    for pooler in started:
        assert torch.equal(pooler.weight, own.weight)
        assert torch.equal(pooler.bias, own.bias)
        assert pooler.weight.data_ptr() != own.weight.data_ptr()


def test_the_poolers_of_a_pyramid_start_as_the_models_too():
    model = fewer.attach(tiny(), Stack((LTP(), DeeBERT())))
    pooler = _policy(model).parts[1].heads.poolers[1]
    assert torch.equal(pooler.weight, model.bert.pooler.dense.weight)


def test_a_folder_of_berxit_with_one_pooler_for_all_exits_answers_as_before(tmp_path):
    """What versions saved in which that was the default."""
    old = BERxiT(head="shared", threshold=0.4)
    model = opened(old, 0.4, layers=4)
    batch = ragged(model)
    wanted, trace = read(model, batch)
    fewer.save(model, tmp_path)
    loaded = fewer.load(tmp_path, precision=None)
    assert fewer.attachment(loaded).method == old
    assert len(_policy(loaded).heads.poolers) == 1
    logits, again = read(loaded, batch)
    assert torch.equal(logits, wanted)
    assert _depth(again) == _depth(trace)


@every_method
@pytest.mark.parametrize("threshold", ["untrained", "never"])
def test_where_nobody_leaves_the_model_is_the_plain_one_bit_for_bit(name, threshold):
    model = _model(name, None if threshold == "untrained" else _extreme(name, "never"))
    batch = ragged(model)
    plain, _ = read(fewer.attach(tiny(layers=LAYERS)), batch)
    logits, trace = read(model, batch)
    assert torch.equal(logits, plain)
    assert _depth(trace) == [LAYERS] * len(LENGTHS)
    wanted = len(_policy(model).layers)
    assert [said.final is None or not said.final.any() for said in trace.exit_outputs] == [
        True
    ] * wanted


@every_method
def test_at_the_most_eager_threshold_everybody_leaves_at_the_first_exit(name):
    model = _model(name, _extreme(name, "eager"))
    if name == "patient":  # eager or not, it waits for two exits
        return
    batch = ragged(model)
    logits, trace = read(model, batch)
    first = _policy(model).layers[0] + 1
    assert _depth(trace) == [first] * len(LENGTHS)
    assert (len(trace.layers), len(trace.exit_outputs)) == (first, 1)
    assert torch.equal(logits, trace.exit_outputs[0].logits)
    shape = fewer.attachment(model).shape
    layers = torch.stack([shape.layers[n].flops(trace.layers[n]) for n in range(first)]).sum(0)
    assert shape.flops(trace).tolist() == (layers + trace.head_flops).tolist()
    assert trace.head_flops.min() > 0


@every_method
def test_texts_leave_at_different_layers_with_the_answer_of_their_exit(name):
    model = _half(name)
    logits, trace = read(model, ragged(model))
    depth = _depth(trace)
    assert len(set(depth)) > 1
    left = dict.fromkeys(range(len(LENGTHS)))
    for said in trace.exit_outputs:
        assert said.rows.tolist() == [
            row for row, layers in enumerate(depth) if layers > said.layer
        ]
        for row in said.rows[said.final].tolist() if said.final is not None else ():
            assert depth[row] == said.layer + 1
            left[row] = said.logits[said.rows.tolist().index(row)]
    for row, answer in left.items():
        assert (answer is None) == (depth[row] == LAYERS)
        assert answer is None or torch.equal(logits[row], answer)


@pytest.mark.parametrize("backbone", ["bert", "albert", "modernbert"])
@every_method
def test_a_batch_equals_its_texts_one_by_one(name, backbone):
    model = _half(name, backbone=backbone)
    batch = ragged(model)
    logits, trace = read(model, batch)
    for row in range(len(LENGTHS)):
        alone, alone_trace = read(model, text(batch, row))
        torch.testing.assert_close(logits[row : row + 1], alone, atol=1e-5, rtol=0)
        assert _depth(alone_trace) == _depth(trace)[row : row + 1]
        torch.testing.assert_close(trace.head_flops[row : row + 1], alone_trace.head_flops)


@every_method
def test_removal_played_in_memory_gives_the_same(name):
    model = _half(name)
    batch = ragged(model)
    (hard, trace), (played, played_trace) = (read(model, batch, how) for how in ("compact", "mask"))
    torch.testing.assert_close(played, hard, atol=1e-5, rtol=0)
    assert torch.equal(trace.layers_read, played_trace.layers_read)
    assert trace.head_flops.tolist() == played_trace.head_flops.tolist()


@every_method
def test_a_pickled_model_answers_as_the_one_it_was_made_of(name):
    model = _half(name)
    again, batch = pickle.loads(pickle.dumps(model)), ragged(model)
    (logits, trace), (others, other_trace) = read(model, batch), read(again, batch)
    assert torch.equal(logits, others)
    assert _depth(trace) == _depth(other_trace)


@every_method
def test_a_stricter_threshold_never_lets_a_text_leave_earlier(name):
    model = _model(name)
    batch = ragged(model, (3, 12, 2, 7, 5, 9, 4, 8))
    dial = _policy(model).dial()
    depths = []
    for threshold in (dial.never, *dial.grid, _extreme(name, "eager")):
        dial.value.fill_(threshold)
        depths.append(read(model, batch)[1].layers_read[:, 0])
    for strict, eager in pairwise(depths):
        assert (eager <= strict).all()
    assert len({tuple(depth.tolist()) for depth in depths}) > 2


@every_method
def test_in_training_mode_exits_only_speak(name):
    model = _model(name, _extreme(name, "eager"))
    batch = ragged(model)
    model.train()
    with fewer.record() as traces:
        logits = model(**batch).logits
    assert _depth(traces[0]) == [LAYERS] * len(LENGTHS)
    assert [said.final for said in traces[0].exit_outputs] == [None] * len(_policy(model).layers)
    assert all(len(said.rows) == len(LENGTHS) for said in traces[0].exit_outputs)
    assert logits.requires_grad


def _losses(model, step=0):
    """Task's and policy's loss of one pass in training mode."""
    batch = ragged(model)
    model.eval()
    policy = _policy(model).train()
    with fewer.record() as traces:
        output = model(**batch)
    given = lesson(output.logits, LABELS, *traces[0].exit_outputs, step=step)
    return given.loss(output.logits, LABELS), policy.loss(given)


@pytest.mark.parametrize("method", [FastBERT(), DeeBERT(), DeeBERT(head="mixed")])
def test_in_a_frozen_phase_no_gradient_reaches_the_model(method):
    model = opened(method, layers=LAYERS)
    (phase,) = method.phases()
    assert (phase.trains, phase.task) == ("policy", False)
    with training_only(model, phase):
        _losses(model)[1].backward()
    own = {id(parameter) for parameter in _policy(model).parameters()}
    for parameter_name, parameter in model.named_parameters():
        if id(parameter) in own:
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


def test_in_turns_exits_learn_at_every_second_step():
    """The judge of right and wrong learns at every step."""
    model = opened(BERxiT(), layers=LAYERS)
    even, odd = (_losses(model, step)[1] for step in (0, 1))
    policy = _policy(model)
    parameters = [policy.doubt.weight, policy.heads.classifiers[0].weight]
    for loss, learns in ((even, False), (odd, True)):
        grads = torch.autograd.grad(loss, parameters)
        assert grads[0].abs().sum() > 0
        assert bool(grads[1].abs().sum() > 0) == learns
    assert _losses(model, 2)[1].item() == even.item() < odd.item()


def test_the_judge_of_right_and_wrong_does_not_change_the_answers():
    model = opened(BERxiT(), layers=2)
    policy = _policy(model)
    (grad,) = torch.autograd.grad(
        _losses(model)[1], policy.heads.classifiers[0].weight, allow_unused=True
    )
    assert grad is None or not grad.any()


def _calibrated(method, logits, share=None):
    """Calibrate after a phase whose exits all said `logits`."""
    model = opened(method, layers=3)
    policy = _policy(model)

    def lessons():
        rows = torch.arange(len(LABELS))
        spoken = [ExitOutput(n, rows, logits / policy.temperature[n]) for n in range(2)]
        yield lesson(logits, LABELS, *spoken)

    phase = Phase("exits", "compact", "all", 1, 1e-3)
    for first in (True, False):
        before = policy.threshold.item()
        policy.calibrate(phase, CalibrationData(first, share or (lambda: 0.5), lessons))
        if first:
            assert policy.threshold.item() == before == _policy(model).criterion.never
    return policy


def test_calibration_opens_the_exits_after_the_phase_and_not_before():
    logits = torch.randn(5, 3)
    assert _calibrated(FastBERT(threshold=0.3), logits).threshold.item() == pytest.approx(0.3)
    assert _calibrated(DeeBERT(), logits).threshold.item() == pytest.approx(0.1)
    assert _calibrated(PABEE(threshold=4), logits).threshold.item() == 4.0


def test_calibration_fits_each_temperature_on_answers_before_division():
    """Calibrating again from another temperature ends at the same one."""
    logits = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 0, 1]), 3) * 4.0
    policy = _calibrated(RightTool(), logits)
    assert (policy.temperature > 1.5).all()  # two of five are wrong, and as sure as the others
    assert policy.temperature[0].item() == pytest.approx(policy.temperature[1].item())
    assert _calibrated(FastBERT(), logits).temperature.tolist() == [1.0, 1.0]
    wanted = policy.temperature.clone()
    policy.temperature.fill_(9.0)
    phase = Phase("exits", "compact", "all", 1, 1e-3)
    spoken = [ExitOutput(n, torch.arange(5), logits / 9.0) for n in range(2)]
    lessons = lambda: iter([lesson(logits, LABELS, *spoken)])  # noqa: E731
    policy.calibrate(phase, CalibrationData(False, lambda: 0.5, lessons))
    torch.testing.assert_close(policy.temperature, wanted, atol=1e-4, rtol=1e-4)


def test_a_temperature_divides_the_answers_and_changes_when_texts_leave():
    model = opened(EarlyExit(criterion="probability", head="linear"), 0.9, layers=3)
    batch = ragged(model)
    policy = _policy(model)
    policy.threshold.fill_(2.0)
    before = read(model, batch)[1].exit_outputs[0].logits
    policy.temperature.copy_(torch.tensor([2.0, 1.0]))
    torch.testing.assert_close(read(model, batch)[1].exit_outputs[0].logits, before / 2)
    policy.threshold.fill_(0.9)
    depths = []
    for temperature in (0.01, 1.0, 100.0):
        policy.temperature.fill_(temperature)
        depths.append(sum(_depth(read(model, batch)[1])))
    assert depths == sorted(depths)
    assert depths[0] < depths[2] == 3 * len(LENGTHS)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("criterion", ["patience", "learned"])
def test_numbers_leave_by_patience_or_by_what_was_learned(head, criterion):
    method = EarlyExit(head=head, criterion=criterion, teacher="labels", tolerance=0.5)
    model = opened(method, layers=LAYERS, num_labels=1)
    batch = ragged(model)
    _policy(model).threshold.fill_(0.5 if criterion == "learned" else 2.0)
    logits, trace = read(model, batch)
    assert logits.shape == (len(LENGTHS), 1)
    for row in range(len(LENGTHS)):
        alone, alone_trace = read(model, text(batch, row))
        torch.testing.assert_close(logits[row : row + 1], alone, atol=1e-5, rtol=0)
        assert _depth(alone_trace) == _depth(trace)[row : row + 1]
    if criterion == "patience":
        assert min(_depth(trace)) >= 3  # two exits that agree with the one before


def test_the_judge_of_numbers_learns_how_far_off_they_are():
    model = opened(BERxiT(), layers=2, num_labels=1)
    policy, labels = _policy(model), torch.tensor([0.5, 0.0, 1.0, 2.0, -1.0])
    batch = ragged(model)
    model.eval()
    policy.train()
    with fewer.record() as traces:
        output = model(**batch)
    (said,) = traces[0].exit_outputs
    given = lesson(output.logits, labels, said, step=0)
    doubt = torch.sigmoid(policy.doubt(said.features)).squeeze(1)
    wrong = torch.tanh((said.logits.squeeze(1) - labels).abs())
    wanted = (doubt - wrong).square().mean()
    assert policy.loss(given).item() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("criterion", ["entropy", "probability", "patient_confidence"])
def test_numbers_cannot_leave_by_a_criterion_that_compares_classes(criterion):
    with pytest.raises(ValueError, match=f"{criterion!r} compares classes, but the model answers"):
        fewer.attach(tiny(num_labels=1), EarlyExit(criterion=criterion))


def test_numbers_have_no_probabilities_to_calibrate():
    with pytest.raises(
        ValueError, match="temperature is True, but the model answers with a number"
    ):
        fewer.attach(tiny(num_labels=1), EarlyExit(criterion="learned", temperature=True))
