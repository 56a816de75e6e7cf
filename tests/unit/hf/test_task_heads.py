"""Heads for texts, vectors, tokens and spans: their logits, labels and losses."""

import pytest
import torch

from fewer import Decision, Trace
from fewer.core.cost import Task
from fewer.core.decision import ExitOutput
from fewer.core.trace import DecisionRecord
from fewer.hf.attach import parts
from fewer.hf.task_heads import SpanHead, TextHead, model_spec, pooler_of, task_head
from fewer.methods.exits import FastBERT
from tests.contract.table import every_backbone, every_family
from tests.tiny import ragged, tiny

CPU = torch.device("cpu")
MASKED = torch.finfo(torch.float32).min / 4
SPAN, TEXT = SpanHead(None), TextHead(None)


def _spec(model):
    return model_spec(*parts(model))


@every_backbone
@pytest.mark.parametrize(
    ("model_class", "task", "labels"),
    [
        ("SequenceClassification", Task.TEXT, 3),
        ("TokenClassification", Task.TOKEN, 3),
        ("QuestionAnswering", Task.SPAN, 2),
        ("MaskedLM", Task.OTHER, 0),
    ],
)
def test_a_model_spec_holds_the_task_of_the_head(backbone, model_class, task, labels):
    spec = _spec(tiny(backbone, model_class))
    assert (spec.task, spec.labels) == (task, labels)


@pytest.mark.parametrize(
    ("settings", "task", "labels"),
    [
        ({"problem_type": "regression", "num_labels": 1}, Task.TEXT, 1),
        ({"problem_type": "regression", "num_labels": 4}, Task.VECTOR, 4),
        ({"problem_type": "multi_label_classification"}, Task.MULTI_LABEL, 3),
    ],
)
def test_vector_targets_are_a_task_of_their_own_which_exits_refuse(settings, task, labels):
    spec = _spec(tiny(**settings))
    assert (spec.task, spec.labels) == (task, labels)
    if task is Task.VECTOR:
        with pytest.raises(ValueError, match="exits of whole texts need"):
            FastBERT().build(spec)


@pytest.mark.parametrize(
    ("settings", "loss"),
    [
        ({"problem_type": "regression", "num_labels": 1}, "mse_loss"),
        ({"problem_type": "regression", "num_labels": 4}, "mse_loss"),
        ({"problem_type": "multi_label_classification"}, "binary_cross_entropy_with_logits"),
        ({}, "cross_entropy"),
    ],
)
def test_the_loss_of_texts_is_that_of_the_model(settings, loss):
    model = tiny(**settings)
    batch, columns = ragged(model), model.config.num_labels
    texts = len(batch["input_ids"])
    labels = torch.rand(texts, columns).round() if columns > 1 else torch.rand(texts)
    labels = labels if settings else labels.long()[:, 0]
    with torch.no_grad():
        output = model(**batch, labels=labels)
    actual = task_head(model).loss(output.logits, labels)
    assert actual.item() == pytest.approx(output.loss.item(), rel=1e-6)
    expected = getattr(torch.nn.functional, loss)(output.logits.squeeze(1), labels)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-6)


ROBERTAS = (
    "roberta",
    "xlm-roberta",
    "camembert",
    "longformer",
    "mpnet",
    "data2vec-text",
    "jina-v3",
)
TANH = ("bert", "albert", "albert-inner", "ernie", "gte", "nomic-bert", "rembert", *ROBERTAS)


@every_family
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
    # elsewhere the classifier is one map after the pooler
    last = model.classifier.out_proj if backbone in ROBERTAS else model.classifier
    torch.testing.assert_close(last(torch.tanh(pooled)), logits)
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
    actual = task_head(model).loss(task_head(model).get_logits(output), places)
    assert actual.item() == pytest.approx(output.loss.item(), rel=1e-5)


def test_the_loss_of_spans_by_hand():
    """Starts: certain of column 0 of 2, ln 2 away; ends: e^0 against 3 e^0, ln 4."""
    logits = torch.tensor([[[0.0, 0.0], [0.0, 1.0986123]]])
    loss = SPAN.loss(logits, torch.tensor([[1, 0]]))
    expected = (torch.tensor(2.0).log() + torch.tensor(4.0).log()) / 2
    assert loss.item() == pytest.approx(expected.item())


def test_starts_and_ends_are_stacked():
    starts, ends = torch.randn(2, 3), torch.randn(2, 3)
    actual = SPAN.get_logits({"start_logits": starts, "end_logits": ends})
    assert actual.shape == (2, 3, 2)
    assert torch.equal(actual[..., 0], starts)
    assert torch.equal(actual[..., 1], ends)
    assert TEXT.get_logits({"logits": starts}) is starts


def test_labels_are_read_in_the_form_of_the_task():
    places = {"start_positions": torch.tensor([1, 2]), "end_positions": torch.tensor([3, 4])}
    assert SPAN.get_labels(places).tolist() == [[1, 3], [2, 4]]
    labels = torch.tensor([1, 0])
    assert TEXT.get_labels({"labels": labels}) is labels
    assert TEXT.get_labels({}) is None
    assert SPAN.get_labels({}) is None


class _Output(dict):
    """An output of transformers: a mapping whose entries are attributes."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__


def _prune(slots, grid):
    trace = Trace(grid, CPU)
    slot = torch.arange(grid[0] * grid[1])
    decision = Decision.keep(~torch.isin(slot, torch.tensor(slots)))
    trace.decisions.append(DecisionRecord(slot, slot // grid[1], decision))
    return trace


def test_a_pruned_token_is_masked_in_starts_and_ends():
    output = _Output(start_logits=torch.zeros(2, 3), end_logits=torch.ones(2, 3))
    trace = _prune([1, 5], (2, 3))
    logits = SPAN.get_logits(output)
    assert trace.answered(logits) is logits
    SPAN.set_logits(output, logits, SPAN.masked_columns(trace, pruned=True))
    assert output.start_logits.tolist() == [[0, MASKED, 0], [0, 0, MASKED]]
    assert output.end_logits.tolist() == [[1, MASKED, 1], [1, 1, MASKED]]


def test_padding_is_masked_even_where_pruned_tokens_are_not():
    output = _Output(start_logits=torch.zeros(1, 4), end_logits=torch.ones(1, 4))
    trace = _prune([1], (1, 4))
    trace.real = torch.tensor([0, 1, 2])
    SPAN.set_logits(output, SPAN.get_logits(output), SPAN.masked_columns(trace, pruned=False))
    assert output.start_logits.tolist() == [[0, 0, 0, MASKED]]
    assert TEXT.masked_columns(trace, pruned=True) is None


def test_no_column_is_masked_without_padding_and_pruned_tokens():
    output = _Output(start_logits=torch.zeros(1, 3), end_logits=torch.ones(1, 3))
    trace = _prune([1], (1, 3))
    for masked in (None, SPAN.masked_columns(trace, pruned=False)):
        SPAN.set_logits(output, SPAN.get_logits(output), masked)
        assert output.start_logits.tolist() == [[0, 0, 0]]


def test_the_loss_of_remaining_tokens_is_that_of_the_model_without_the_pruned_ones():
    """Text 1 lost its column 1, which has no label; text 0 its column 2, the end."""
    torch.manual_seed(0)
    logits, places = torch.randn(2, 4, 2), torch.tensor([[1, 2], [0, 3]])
    dropped = torch.tensor([[False, False, True, False], [False, True, False, False]])
    start = [logits[0, [0, 1, 3], 0].log_softmax(0)[1], logits[1, [0, 2, 3], 0].log_softmax(0)[0]]
    end = logits[1, [0, 2, 3], 1].log_softmax(0)[2]
    expected = -(sum(start) / 2 + end) / 2
    torch.testing.assert_close(SPAN.remaining_loss(logits, places, dropped), expected)


def test_the_loss_is_zero_where_all_answers_are_pruned():
    logits = torch.randn(1, 3, 2, requires_grad=True)
    loss = SPAN.remaining_loss(logits, torch.tensor([[1, 1]]), torch.tensor([[False, True, False]]))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_exit_outputs_replace_the_logits_of_the_head():
    output = _Output(logits=torch.zeros(2, 2))
    trace = Trace((2, 3), CPU)
    assert trace.answered(output.logits) is output.logits
    exit_logits = torch.tensor([[7.0, 8.0]])
    trace.exit_outputs.append(
        ExitOutput(0, torch.tensor([1]), exit_logits, exited=torch.tensor([True]))
    )
    TEXT.set_logits(output, trace.answered(TEXT.get_logits(output)), None)
    assert output.logits.tolist() == [[0, 0], [7, 8]]
