"""How exits that answer with a span learn, and are calibrated."""

import math
from dataclasses import replace

import pytest
import torch

import fewer
from fewer.core.cost import Task
from fewer.core.decision import ExitOutput
from fewer.core.learning import TrainingBatch
from fewer.hf.attach import running
from fewer.hf.task_heads import SpanHead
from fewer.kernels.call import masked_score
from fewer.methods.exits import PABEE, BERxiT, DeeBERT, FastBERT, RightTool
from tests.batches import PHASE, calibration_data
from tests.tiny import LENGTHS, ragged
from tests.unit.methods.exits.parts import span_model, spec

LAYERS = 4
SPANS = torch.tensor([[0, 0], [3, 9], [1, 1], [6, 2], [0, 4]])  # in texts of LENGTHS


def _training_batch(logits, labels, *outputs, step=0):
    trace = fewer.Trace(tuple(logits.shape[:2]), logits.device, exit_outputs=list(outputs))
    return TrainingBatch(trace, PHASE, step, logits, labels, SpanHead(None).loss)


def _run(method, labels=SPANS):
    """Run a batch in the method's phase; return model, policy, training batch and trace."""
    model = span_model(method).eval()
    (phase,) = method.phases()
    with running(model, phase), fewer.record() as traces:
        output = model(**ragged(model))
    logits, (trace,) = SpanHead(None).get_logits(output), traces
    batch = _training_batch(logits, labels, *trace.exit_outputs)
    return model, fewer.attachment(model).policy, batch, trace


def _by_text(rows):
    return [of_text.unbind(1) for of_text in rows.split(LENGTHS)]


@pytest.mark.parametrize("weights", ["equal", "depth"])
def test_labels_teach_starts_and_ends_of_each_exit(weights):
    model, policy, batch, trace = _run(PABEE(weights=weights))
    expected = 0.0
    for output in trace.exit_outputs:
        losses = [
            -torch.log_softmax(side, 0)[column]
            for sides, span in zip(_by_text(output.logits), SPANS, strict=True)
            for side, column in zip(sides, span, strict=True)
        ]
        weight = 1.0 if weights == "equal" else (output.layer + 1) / LAYERS
        expected += weight * torch.stack(losses).mean()
    loss = policy.loss(batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert model.bert.embeddings.word_embeddings.weight.grad.abs().sum() > 0
    assert all(head.weight.grad.abs().sum() > 0 for head in policy.heads)


def test_the_last_layer_teaches_over_the_tokens_of_each_text():
    _, policy, batch, trace = _run(FastBERT(), labels=None)
    last = batch.logits.detach().flatten(0, 1)
    expected = 0.0
    for output in trace.exit_outputs:
        losses = []
        pairs = zip(_by_text(output.logits), _by_text(last[output.rows]), strict=True)
        for students, teachers in pairs:
            for student, teacher in zip(students, teachers, strict=True):
                log_p, log_q = torch.log_softmax(teacher, 0), torch.log_softmax(student, 0)
                losses.append((log_p.exp() * (log_p - log_q)).sum())
        expected += torch.stack(losses).mean()
    assert policy.loss(batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_last_layer_gets_no_gradient_as_a_teacher():
    _, policy, batch, _ = _run(FastBERT())
    batch.logits.retain_grad()
    policy.loss(batch).backward()
    assert batch.logits.grad is None


# two texts of three columns, the last token of the second pruned
ROWS, LOGITS = torch.tensor([0, 1, 2, 3, 4]), torch.tensor([[0.0, 1.0]] * 5)


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([[0, 1], [1, 1]], (math.log(3) + math.log(2)) / 2),
        ([[0, 1], [0, 2]], math.log(3)),  # the end was pruned
        ([[0, 3], [0, 0]], math.log(2)),  # beyond the text
        ([[9, 9], [2, 2]], 0.0),
    ],
)
def test_a_text_whose_answer_was_pruned_has_no_loss(spans, expected):
    policy = DeeBERT().build(spec(labels=2, task=Task.SPAN, layers=2))
    logits = LOGITS.clone().requires_grad_()
    output = ExitOutput(0, ROWS, logits)
    loss = policy.loss(_training_batch(torch.zeros(2, 3, 2), torch.tensor(spans), output))
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert torch.isfinite(logits.grad).all()


def test_a_teacher_with_masked_pruned_tokens_gives_a_finite_loss():
    policy = FastBERT().build(spec(labels=2, task=Task.SPAN, layers=2))
    logits = torch.zeros(5, 2, requires_grad=True)
    last = torch.zeros(2, 3, 2).index_fill(1, torch.tensor([1]), masked_score(torch.float32))
    loss = policy.loss(_training_batch(last, None, ExitOutput(0, ROWS, logits)))
    assert loss.item() == pytest.approx((math.log(3 / 2) + math.log(2)) / 2)
    loss.backward()
    assert torch.isfinite(logits.grad).all()


def test_alternating_exits_learn_at_every_second_step():
    method = BERxiT(criterion="probability")
    _, policy, batch, _ = _run(method)
    even, odd = (policy.loss(replace(batch, step=step)) for step in (0, 1))
    assert even.item() == 0.0 < odd.item()
    assert even.requires_grad


def test_exits_that_learn_from_labels_require_them():
    _, policy, batch, _ = _run(DeeBERT(), labels=None)
    with pytest.raises(ValueError, match="start_positions and end_positions must be given"):
        policy.loss(batch)


def test_each_temperature_is_fitted_to_held_out_logits_before_division():
    """Two of five starts and ends are wrong, as certain as the others; batches differ in width."""
    policy = RightTool().build(spec(labels=2, task=Task.SPAN))
    (phase,) = RightTool().phases()

    def batches():
        for texts, columns, wrong in ((3, 3, 1), (2, 5, 1)):
            rows = torch.arange(texts * columns)
            logits = torch.zeros(texts, columns, 2)
            logits[:, 0] = 4.0
            logits[:wrong, 0], logits[:wrong, 1] = 0.0, 4.0
            labels = torch.zeros(texts, 2, dtype=torch.long)
            outputs = [
                ExitOutput(n, rows, logits.flatten(0, 1) / policy.temperature[n]) for n in range(2)
            ]
            yield _training_batch(logits, labels, *outputs)

    for start in (1.0, 9.0):
        policy.temperature.fill_(start)
        policy.calibrate(phase, calibration_data(lambda: 0.5, batches))
        # of the best T: the mean over rows of the softmax's share of the 4s equals the share 3 / 5
        p = [
            math.exp(4 / policy.temperature[0]) / (math.exp(4 / policy.temperature[0]) + others)
            for others in (2, 2, 2, 4, 4)
        ]
        assert sum(p) / 5 == pytest.approx(3 / 5, abs=0.05)
        assert policy.temperature[0].item() == pytest.approx(policy.temperature[1].item(), rel=1e-3)
    assert policy.threshold.item() == pytest.approx(0.9)


def test_logits_are_divided_by_the_temperature_of_their_exit():
    """z / T: at T = 2 half of the logits at T = 1, at each exit its own."""
    model = span_model(RightTool())
    batch, policy = ragged(model), fewer.attachment(model).policy

    def compute():
        with torch.no_grad(), fewer.record() as traces:
            model(**batch)
        return [output.logits for output in traces[0].exit_outputs]

    undivided = compute()
    policy.temperature.copy_(torch.tensor([2.0, 4.0, 0.5]))
    for logits, divided, temperature in zip(undivided, compute(), (2.0, 4.0, 0.5), strict=True):
        torch.testing.assert_close(divided, logits / temperature)


def test_a_column_before_the_text_is_its_first_as_in_transformers():
    """Columns are clamped to 0 .. N there; -1 is 0."""
    labels = SPANS.clone()
    labels[0] = -1
    first = SPANS.clone()
    first[0] = 0
    runs = [_run(PABEE(), spans)[1:3] for spans in (labels, first)]
    loss, expected = (policy.loss(batch).item() for policy, batch in runs)
    assert loss == pytest.approx(expected)
