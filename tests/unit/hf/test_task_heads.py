"""What heads answer: texts, tokens, spans; their logits, labels and losses."""

import pytest
import torch

from fewer import Decision, Trace
from fewer.core.decision import ExitOutput
from fewer.hf.attach import parts
from fewer.hf.task_heads import (
    apply_exit_outputs,
    labels_of,
    logits_of,
    model_spec,
    pooler_of,
    remaining_span_loss,
    task_loss,
)
from tests.contract.table import every_backbone
from tests.tiny import ragged, tiny

CPU = torch.device("cpu")
NEVER = torch.finfo(torch.float32).min / 4


def _shape(model):
    return model_spec(*parts(model))


@every_backbone
@pytest.mark.parametrize(
    ("task", "answers", "labels"),
    [
        ("SequenceClassification", "text", 3),
        ("TokenClassification", "token", 3),
        ("QuestionAnswering", "span", 2),
        ("MaskedLM", "", 0),
    ],
)
def test_a_model_spec_holds_the_task_of_the_head(backbone, task, answers, labels):
    shape = _shape(tiny(backbone, task))
    assert (shape.answers, shape.labels) == (answers, labels)


@pytest.mark.parametrize(
    ("settings", "answers", "labels"),
    [
        ({"problem_type": "regression", "num_labels": 1}, "text", 1),
        ({"problem_type": "regression", "num_labels": 4}, "", 0),
        ({"problem_type": "multi_label_classification"}, "", 0),
    ],
)
def test_vector_targets_have_no_task_for_methods(settings, answers, labels):
    shape = _shape(tiny(**settings))
    assert (shape.answers, shape.labels) == (answers, labels)


TANH = ("bert", "roberta", "xlm-roberta", "camembert", "albert", "albert-inner", "longformer")


@every_backbone
def test_a_pooler_is_the_linear_map_before_tanh(backbone):
    model = tiny(backbone)
    pooler = pooler_of(*parts(model))
    assert (pooler is not None) == (backbone in TANH)
    if pooler is None:
        return
    batch, seen = ragged(model), []
    with pooler.register_forward_hook(lambda _, inputs, pooled: seen.append((inputs[0], pooled))):
        logits = model(**batch).logits
    inputs, pooled = seen[0]
    if backbone.startswith(("bert", "albert")):  # their classifier is one map after the pooler
        torch.testing.assert_close(model.classifier(torch.tanh(pooled)), logits)
    else:
        torch.testing.assert_close(model.classifier.out_proj(torch.tanh(pooled)), logits)
    first = model.base_model(**batch).last_hidden_state[:, 0]
    torch.testing.assert_close(inputs, first)


@pytest.mark.parametrize("task", ["TokenClassification", "QuestionAnswering", "Model"])
def test_a_model_that_is_no_classifier_has_no_pooler_to_start_from(task):
    assert pooler_of(*parts(tiny("bert", task))) is None


@every_backbone
def test_the_loss_of_spans_is_the_models_own(backbone):
    model = tiny(backbone, "QuestionAnswering")
    batch = ragged(model)
    places = torch.tensor([[0, 0], [5, 9], [12, 40], [3, 6], [2, 99]])  # some are beyond the text
    starts, ends = places.unbind(1)
    with torch.no_grad():
        output = model(**batch, start_positions=starts, end_positions=ends)
    actual = task_loss(model.config, "span")(logits_of(output, "span"), places)
    assert actual.item() == pytest.approx(output.loss.item(), rel=1e-5)


def test_the_loss_of_spans_by_hand():
    """Starts: certain of column 0 of 2, ln 2 away; ends: e^0 against 3 e^0, ln 4."""
    logits = torch.tensor([[[0.0, 0.0], [0.0, 1.0986123]]])
    loss = task_loss(None, "span")(logits, torch.tensor([[1, 0]]))
    expected = (torch.tensor(2.0).log() + torch.tensor(4.0).log()) / 2
    assert loss.item() == pytest.approx(expected.item())


def test_starts_and_ends_stand_side_by_side():
    starts, ends = torch.randn(2, 3), torch.randn(2, 3)
    actual = logits_of({"start_logits": starts, "end_logits": ends}, "span")
    assert actual.shape == (2, 3, 2)
    assert torch.equal(actual[..., 0], starts)
    assert torch.equal(actual[..., 1], ends)
    assert logits_of({"logits": starts}, "text") is starts


def test_labels_are_read_in_the_form_of_the_task():
    places = {"start_positions": torch.tensor([1, 2]), "end_positions": torch.tensor([3, 4])}
    assert labels_of(places, "span").tolist() == [[1, 3], [2, 4]]
    labels = torch.tensor([1, 0])
    assert labels_of({"labels": labels}, "text") is labels
    assert labels_of({}, "text") is None
    assert labels_of({}, "span") is None


class _Output(dict):
    """An output of transformers: a mapping whose entries are attributes."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__


def _dropping(slots, grid):
    trace = Trace(grid, CPU)
    slot = torch.arange(grid[0] * grid[1])
    stays = ~torch.isin(slot, torch.tensor(slots))
    trace.settled.append((slot, slot // grid[1], Decision.keep(stays)))
    return trace


def test_a_dropped_token_is_hidden_from_starts_and_ends():
    output = _Output(start_logits=torch.zeros(2, 3), end_logits=torch.ones(2, 3))
    trace = _dropping([1, 5], (2, 3))
    exits = apply_exit_outputs(output, trace, "span", trace.dropped)
    assert not exits
    assert output.start_logits.tolist() == [[0, NEVER, 0], [0, 0, NEVER]]
    assert output.end_logits.tolist() == [[1, NEVER, 1], [1, 1, NEVER]]


def test_no_column_is_hidden_by_default():
    output = _Output(start_logits=torch.zeros(1, 3), end_logits=torch.ones(1, 3))
    assert not apply_exit_outputs(output, _dropping([1], (1, 3)), "span")
    assert output.start_logits.tolist() == [[0, 0, 0]]


def test_the_loss_of_remaining_tokens_is_that_of_the_model_without_the_pruned_ones():
    """Text 1 lost its column 1, where nothing is to be learned; text 0 its column 2, the end."""
    torch.manual_seed(0)
    logits, places = torch.randn(2, 4, 2), torch.tensor([[1, 2], [0, 3]])
    dropped = torch.tensor([[False, False, True, False], [False, True, False, False]])
    start = [logits[0, [0, 1, 3], 0].log_softmax(0)[1], logits[1, [0, 2, 3], 0].log_softmax(0)[0]]
    end = logits[1, [0, 2, 3], 1].log_softmax(0)[2]
    expected = -(sum(start) / 2 + end) / 2
    torch.testing.assert_close(remaining_span_loss(logits, places, dropped), expected)


def test_the_loss_is_zero_where_all_answers_are_pruned():
    logits = torch.randn(1, 3, 2, requires_grad=True)
    loss = remaining_span_loss(logits, torch.tensor([[1, 1]]), torch.tensor([[False, True, False]]))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_exit_outputs_replace_the_logits_of_the_head():
    output = _Output(logits=torch.zeros(2, 2))
    trace = Trace((2, 3), CPU)
    assert not apply_exit_outputs(output, trace, "text")
    exit_logits = torch.tensor([[7.0, 8.0]])
    trace.exit_outputs.append(
        ExitOutput(0, torch.tensor([1]), exit_logits, final=torch.tensor([True]))
    )
    assert apply_exit_outputs(output, trace, "text")
    assert output.logits.tolist() == [[0, 0], [7, 8]]
