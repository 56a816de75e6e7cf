import pytest
import torch

import fewer
from fewer.core.learning import TeacherOutput
from fewer.core.needs import Needs
from fewer.core.phase import INFERENCE
from fewer.hf.attach import running
from fewer.methods.pruning import TRBERT
from tests.batches import PHASE, calibration_data, training_batch
from tests.contract.table import SPREAD, counts, every_backbone, read
from tests.rounding import assert_same
from tests.tiny import LENGTHS, ragged, tiny
from tests.unit.training import synthetic

LABELS = torch.tensor([0, 1, 2, 0, 1])
WARM, POLICY, JOINT = TRBERT().phases()


def _attach(backbone="bert", task="SequenceClassification", **settings):
    """Attach networks that decide differently from token to token."""
    model = fewer.attach(tiny(backbone, task), TRBERT(**settings))
    policy = fewer.attachment(model).policy
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.normal_(std=SPREAD)
    policy.threshold.fill_(0.5)
    return model


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": (0,)}, "layers"),
        ({"length_costs": (1.0,)}, "length_costs"),
        ({"length_costs": (-1.0, 1.0)}, "length_costs"),
        ({"target": 1.0}, "target"),
        ({"threshold": -0.1}, "threshold"),
        ({"draws": 0}, "draws"),
        ({"epochs": (1.0, 1.0)}, "epochs"),
        ({"learning_rates": (1e-5,)}, "learning_rates"),
    ],
)
def test_values_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TRBERT(**settings)


@pytest.mark.parametrize(
    ("settings", "layers"), [({"layers": (1, 2)}, 3), ({"layers": (4,)}, 3), ({}, 1)], ids=str
)
def test_layers_that_the_model_has_not_and_the_first_are_refused(settings, layers):
    with pytest.raises(ValueError, match="layers must be numbers from 2 to"):
        fewer.attach(tiny(layers=layers), TRBERT(**settings))


def test_the_phases_are_warm_policy_and_joint():
    method = TRBERT(epochs=(0.5, 2, 3), learning_rates=(1e-5, 1e-2), draws=4)
    warm, policy, joint = method.phases()
    assert [phase.name for phase in (warm, policy, joint)] == ["warm", "policy", "joint"]
    assert [phase.epochs for phase in (warm, policy, joint)] == [0.5, 2, 3]
    assert [phase.trains for phase in (warm, policy, joint)] == ["all", "policy", "all"]
    # gradients reach the model in the first, which does not learn there
    assert [phase.learning_rate for phase in (warm, policy, joint)] == [0.0, 0.0, 1e-5]
    assert {phase.policy_learning_rate for phase in (warm, policy, joint)} == {1e-2}
    assert (warm.apply, warm.passes, warm.task) == ("observe", (), False)
    assert [one.teacher for one in policy.passes] == [None, 0, 0, 0, 0]
    assert {one.apply for one in policy.passes} == {"compact"}
    assert {one.task for one in policy.passes} == {0.0}
    assert (policy.teacher, joint.teacher, joint.calibrate) == (False, True, True)


@every_backbone
def test_untrained_nothing_is_skipped(backbone):
    model = fewer.attach(tiny(backbone), TRBERT())
    batch = ragged(model)
    logits, trace = read(model, batch)
    assert_same(logits, read(fewer.attach(tiny(backbone)), batch)[0])
    assert trace.layers_read.sum() == len(trace.layers) * sum(LENGTHS)


@pytest.mark.parametrize("apply", ["mask", "compact"])
def test_what_is_drawn_does_not_depend_on_how_it_is_carried_out(apply):
    """Numbers are drawn for every place of the grid, once for a pass."""
    model = _attach()
    outcomes = []
    for how in ("compact", apply):
        torch.manual_seed(1)
        phase = POLICY.of_pass(1)
        with running(model, phase), fewer.applying(model, how), fewer.record() as traces:
            logits = model(**ragged(model)).logits.detach()
        outcomes.append((logits, counts(traces[0]), traces[0].log_prob.detach()))
    for one, other in zip(*outcomes, strict=True):
        assert_same(one, other)


def test_only_passes_after_the_first_draw():
    model = _attach()
    batch, kept = ragged(model), {}
    for phase in (INFERENCE, POLICY.of_pass(0), POLICY.of_pass(1)):
        with running(model, phase), torch.no_grad(), fewer.record() as traces:
            for _ in range(2):
                model(**batch)
        kept[phase.name, phase.number] = [trace.layers_read for trace in traces]
    assert torch.equal(*kept["inference", 0])
    assert torch.equal(*kept["policy", 0])
    assert not torch.equal(*kept["policy", 1])


def test_states_are_kept_for_the_heuristic_only():
    policy = fewer.attachment(fewer.attach(tiny(layers=6), TRBERT())).policy
    assert policy.points == (1, 3)
    states = [layer for layer in range(6) if policy.needs(layer, WARM) == Needs(states=True)]
    assert states == [0, 2, 4]
    assert {policy.needs(layer, POLICY) for layer in range(6)} == {Needs()}
    assert {policy.needs(layer, WARM.in_place("observe")) for layer in range(6)} == {Needs()}


@every_backbone
def test_the_heuristic_teaches_the_networks_and_not_the_model(backbone):
    model = _attach(backbone)
    with running(model, WARM), fewer.record() as traces:
        logits = model(**ragged(model)).logits
    policy = fewer.attachment(model).policy
    policy.loss(training_batch(traces[0], logits, LABELS, phase=WARM)).backward()
    learned = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert learned
    assert all("fewer.policy.networks" in name for name in learned)
    assert all(parameter.grad is not None for parameter in policy.parameters())


def test_the_heuristic_prunes_nothing():
    model = _attach()
    with running(model, WARM), torch.no_grad(), fewer.record() as traces:
        model(**ragged(model))
    assert not bool(traces[0].dropped.any())


@pytest.mark.parametrize("task", ["SequenceClassification", "TokenClassification"])
def test_the_model_is_trained_towards_its_teacher(task):
    model = _attach(task=task)
    policy = fewer.attachment(model).policy
    batch = ragged(model)
    with running(model, JOINT.of_pass(0)), fewer.record() as traces:
        logits = fewer.attachment(model).head.get_logits(model(**batch))
    teacher = TeacherOutput(torch.randn_like(logits), traces[0])
    learned = training_batch(traces[0], logits, phase=JOINT.of_pass(0), teacher=teacher)
    rows = logits if logits.ndim == 2 else logits[batch["attention_mask"].bool()]
    targets = teacher.logits if logits.ndim == 2 else teacher.logits[batch["attention_mask"].bool()]
    expected = (targets.softmax(-1) * (targets.log_softmax(-1) - rows.log_softmax(-1))).sum(-1)
    assert policy.loss(learned).item() == pytest.approx(expected.mean().item(), rel=1e-4)
    same = training_batch(
        traces[0], logits, phase=JOINT.of_pass(0), teacher=TeacherOutput(logits, traces[0])
    )
    assert policy.loss(same).item() == pytest.approx(0.0, abs=1e-6)


def test_the_answers_of_questions_compete_over_the_columns():
    model = _attach(task="QuestionAnswering")
    batch = ragged(model)
    with running(model, JOINT.of_pass(0)), fewer.record() as traces:
        logits = fewer.attachment(model).head.get_logits(model.train()(**batch))
    teacher = TeacherOutput(torch.randn_like(logits), traces[0])
    learned = training_batch(traces[0], logits, phase=JOINT.of_pass(0), teacher=teacher)
    expected = []
    for row, length in enumerate(LENGTHS):
        for side in range(2):
            student, target = (one[row, :length, side].detach() for one in (logits, teacher.logits))
            ratio = target.log_softmax(0) - student.log_softmax(0)
            expected.append(float((target.softmax(0) * ratio).sum()))
    policy = fewer.attachment(model).policy
    assert policy.loss(learned).item() == pytest.approx(sum(expected) / 10, rel=1e-3)


def test_a_pass_without_a_teacher_has_no_loss():
    model = _attach()
    _, trace = read(model, ragged(model))
    batch = training_batch(trace, phase=POLICY.of_pass(0))
    assert float(fewer.attachment(model).policy.loss(batch)) == 0.0


def test_a_higher_threshold_keeps_fewer_tokens():
    model = _attach()
    points = fewer.attachment(model).policy.operating_points()
    kept = []
    for threshold in (0.0, *points.path, 1.0):
        points.set(threshold)
        kept.append(int(read(model, ragged(model))[1].layers_read.sum()))
    assert kept == sorted(kept, reverse=True)
    assert kept[0] == 3 * sum(LENGTHS) > kept[-1]


@pytest.mark.parametrize("target", [0.6, 0.8])
def test_calibration_meets_its_target(target):
    model = _attach(target=target)
    attached = fewer.attachment(model)
    batch = ragged(model, torch.randint(5, 40, (40,)).tolist())

    def flops_ratio():
        return float(attached.spec.flops_ratio(read(model, batch)[1]))

    attached.policy.calibrate(PHASE, calibration_data(flops_ratio))
    assert flops_ratio() == pytest.approx(target, abs=0.01)


@pytest.mark.parametrize(("first", "threshold"), [(True, 0.0), (False, 0.4)])
def test_the_last_phase_opens_the_threshold(first, threshold):
    policy = fewer.attachment(fewer.attach(tiny(), TRBERT(threshold=0.4))).policy
    data = calibration_data(lambda: pytest.fail("no ratio is needed"), first=first)
    policy.calibrate(JOINT, data)
    assert float(policy.threshold) == pytest.approx(threshold)


def test_the_length_cost_lowers_the_share(tmp_path):
    """From networks that keep each token with a chance of 0.88."""
    rows = synthetic.texts(160)
    method = TRBERT(
        length_costs=(20.0, 20.0),
        epochs=(0.1, 1, 0.1),
        learning_rates=(1e-4, 5e-2),
        draws=1,
    )
    model = fewer.attach(synthetic.small_model(), method)
    policy = fewer.attachment(model).policy
    with torch.no_grad():
        policy.networks[0][2].bias.fill_(2.0)
    policy.threshold.fill_(0.5)
    assert synthetic.share(model, rows) > 1  # all tokens, and the network
    model = synthetic.run(tmp_path, model, method, train=rows, dense=None)
    assert synthetic.share(model, rows) < 0.6


def test_training_meets_the_target(tmp_path):
    rows = synthetic.texts(160)
    method = TRBERT(target=0.7, epochs=(0.5, 0.5, 0.5), learning_rates=(1e-3, 1e-2))
    model = synthetic.run(tmp_path, method=method, train=rows, dense=None)
    assert synthetic.share(model, rows) == pytest.approx(0.7, abs=0.02)
