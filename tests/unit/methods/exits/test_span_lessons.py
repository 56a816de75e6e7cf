"""How exits that answer with a span learn, and are calibrated."""

import math

import pytest
import torch

import fewer
from fewer.core.decision import ExitOutput
from fewer.core.policy import CalibrationData, Phase, TrainingBatch
from fewer.hf.task_heads import logits_of, task_loss
from fewer.kernels.call import masked_score
from fewer.methods.exits import PABEE, BERxiT, DeeBERT, FastBERT, RightTool
from tests.tiny import LENGTHS, ragged
from tests.unit.methods.exits.parts import shape, span_model

LAYERS = 4
PLACES = torch.tensor([[0, 0], [3, 9], [1, 1], [6, 2], [0, 4]])  # in texts of LENGTHS


def _lesson(logits, labels, *spoken, step=0):
    trace = fewer.Trace(tuple(logits.shape[:2]), logits.device, exit_outputs=list(spoken))
    phase = Phase("any", "compact", "all", 1, 1e-3)
    return TrainingBatch(trace, phase, step, logits, labels, task_loss(None, "span"))


def _taught(method, labels=PLACES):
    """Read a batch in training mode: what exits said, and the lesson that it is."""
    model = span_model(method).eval()
    policy = fewer.attachment(model).policy.train()
    with fewer.record() as traces:
        output = model(**ragged(model))
    logits = logits_of(output, "span")
    return model, policy, _lesson(logits, labels, *traces[0].exit_outputs), traces[0]


def _by_text(rows):
    return [one.unbind(1) for one in rows.split(LENGTHS)]


@pytest.mark.parametrize("weights", ["equal", "depth"])
def test_labels_teach_starts_and_ends_of_each_exit(weights):
    model, policy, given, trace = _taught(PABEE(weights=weights))
    wanted = 0.0
    for said in trace.exit_outputs:
        losses = [
            -torch.log_softmax(side, 0)[place]
            for text_, places in zip(_by_text(said.logits), PLACES, strict=True)
            for side, place in zip(text_, places, strict=True)
        ]
        weight = 1.0 if weights == "equal" else (said.layer + 1) / LAYERS
        wanted += weight * torch.stack(losses).mean()
    loss = policy.loss(given)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    loss.backward()
    assert model.bert.embeddings.word_embeddings.weight.grad.abs().sum() > 0
    assert all(head.weight.grad.abs().sum() > 0 for head in policy.heads)


def test_the_last_layer_teaches_over_the_tokens_of_each_text():
    _, policy, given, trace = _taught(FastBERT(), labels=None)
    last = given.logits.detach().flatten(0, 1)
    wanted = 0.0
    for said in trace.exit_outputs:
        losses = []
        taught = zip(_by_text(said.logits), _by_text(last[said.rows]), strict=True)
        for students, teachers in taught:
            for student, teacher in zip(students, teachers, strict=True):
                log_p, log_q = torch.log_softmax(teacher, 0), torch.log_softmax(student, 0)
                losses.append((log_p.exp() * (log_p - log_q)).sum())
        wanted += torch.stack(losses).mean()
    assert policy.loss(given).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_a_frozen_model_gets_no_gradient_from_its_answers():
    _, policy, given, _ = _taught(FastBERT())
    given.logits.retain_grad()
    policy.loss(given).backward()
    assert given.logits.grad is None


# two texts of three columns, the last token of the second dropped
ROWS, LAID = torch.tensor([0, 1, 2, 3, 4]), torch.tensor([[0.0, 1.0]] * 5)


@pytest.mark.parametrize(
    ("places", "wanted"),
    [
        ([[0, 1], [1, 1]], (math.log(3) + math.log(2)) / 2),
        ([[0, 1], [0, 2]], math.log(3)),  # the end was dropped
        ([[0, 3], [0, 0]], math.log(2)),  # beyond the text
        ([[9, 9], [2, 2]], 0.0),
    ],
)
def test_a_text_whose_answer_was_dropped_teaches_nothing(places, wanted):
    policy = DeeBERT().build(shape(labels=2, answers="span", layers=2)).train()
    logits = LAID.clone().requires_grad_()
    said = ExitOutput(0, ROWS, logits)
    given = _lesson(torch.zeros(2, 3, 2), torch.tensor(places), said)
    loss = policy.loss(given)
    assert loss.item() == pytest.approx(wanted)
    loss.backward()
    assert torch.isfinite(logits.grad).all()


def test_a_teacher_that_hides_the_dropped_gives_a_finite_loss():
    policy = FastBERT().build(shape(labels=2, answers="span", layers=2)).train()
    logits = torch.zeros(5, 2, requires_grad=True)
    last = torch.zeros(2, 3, 2).index_fill(1, torch.tensor([1]), masked_score(torch.float32))
    loss = policy.loss(_lesson(last, None, ExitOutput(0, ROWS, logits)))
    assert loss.item() == pytest.approx((math.log(3 / 2) + math.log(2)) / 2)
    loss.backward()
    assert torch.isfinite(logits.grad).all()


def test_in_turns_exits_learn_at_every_second_step():
    method = BERxiT(criterion="probability")
    _, policy, given, trace = _taught(method)
    even, odd = (
        policy.loss(_lesson(given.logits, PLACES, *trace.exit_outputs, step=n)) for n in (0, 1)
    )
    assert even.item() == 0.0 < odd.item()
    assert even.requires_grad


def test_labels_are_asked_for_where_they_teach():
    _, policy, given, _ = _taught(DeeBERT(), labels=None)
    with pytest.raises(ValueError, match="the batch has no start_positions and end_positions"):
        policy.loss(given)


def test_each_temperature_is_fitted_to_held_out_answers_before_division():
    """Two of five starts and ends are wrong, and as sure as the others; batches differ in width."""
    policy = RightTool().build(shape(labels=2, answers="span"))
    phase = Phase("exits", "compact", "all", 1, 1e-3)

    def lessons():
        for texts, columns, wrong in ((3, 3, 1), (2, 5, 1)):
            rows = torch.arange(texts * columns)
            logits = torch.zeros(texts, columns, 2)
            logits[:, 0] = 4.0
            logits[:wrong, 0], logits[:wrong, 1] = 0.0, 4.0
            labels = torch.zeros(texts, 2, dtype=torch.long)
            spoken = [
                ExitOutput(n, rows, logits.flatten(0, 1) / policy.temperature[n]) for n in range(2)
            ]
            yield _lesson(logits, labels, *spoken)

    for start in (1.0, 9.0):
        policy.temperature.fill_(start)
        policy.calibrate(phase, CalibrationData(False, lambda: 0.5, lessons))
        # of the best T: the mean over rows of the softmax's share of the 4s equals the share 3 / 5
        p = [
            math.exp(4 / policy.temperature[0]) / (math.exp(4 / policy.temperature[0]) + others)
            for others in (2, 2, 2, 4, 4)
        ]
        assert sum(p) / 5 == pytest.approx(3 / 5, abs=0.05)
        assert policy.temperature[0].item() == pytest.approx(policy.temperature[1].item(), rel=1e-3)
    assert policy.threshold.item() == pytest.approx(0.9)


def test_logits_are_divided_by_the_temperature_of_their_exit():
    """z / T: at T = 2 half of the logits at T = 1, at every exit for itself."""
    model = span_model(RightTool())
    batch, policy = ragged(model), fewer.attachment(model).policy

    def said():
        with torch.no_grad(), fewer.record() as traces:
            model(**batch)
        return [one.logits for one in traces[0].exit_outputs]

    plain = said()
    policy.temperature.copy_(torch.tensor([2.0, 4.0, 0.5]))
    for logits, cold, temperature in zip(plain, said(), (2.0, 4.0, 0.5), strict=True):
        torch.testing.assert_close(cold, logits / temperature)


def test_a_place_before_the_text_is_its_first_as_in_transformers():
    """Places are clamped to 0 .. N there; -1 is 0."""
    labels = PLACES.clone()
    labels[0] = -1
    first = PLACES.clone()
    first[0] = 0
    losses = [_taught(PABEE(), places)[1:3] for places in (labels, first)]
    found, wanted = (policy.loss(given).item() for policy, given in losses)
    assert found == pytest.approx(wanted)
