import math

import pytest
import torch

from fewer.core.decision import ExitOutput
from fewer.methods.distillation import distillation
from fewer.methods.exits.losses import exit_loss, exit_weight, get_labels
from tests.unit.methods.exits.parts import training_batch

TEACHER = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log()
STUDENT = torch.tensor([[0.25, 0.75], [0.9, 0.1]]).log()
# KL(teacher || student) of the first row; the second is 0
FORWARD = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
LABELS = torch.tensor([0, 1])


def _output(logits, layer=0, rows=None):
    return ExitOutput(layer, torch.arange(len(logits)) if rows is None else rows, logits)


def test_labels_teach_by_the_loss_of_the_task():
    batch = training_batch(TEACHER, LABELS)
    expected = -(math.log(0.25) + math.log(0.1)) / 2
    loss = exit_loss(batch, [_output(STUDENT)], "labels", "equal", 3)
    assert loss.item() == pytest.approx(expected)


def test_the_last_layer_teaches_without_labels():
    loss = exit_loss(training_batch(TEACHER, None), [_output(STUDENT)], "last", "equal", 3)
    assert loss.item() == pytest.approx(FORWARD / 2)


def test_the_last_layer_is_not_taught_by_its_students():
    teacher, student = TEACHER.clone().requires_grad_(), STUDENT.clone().requires_grad_()
    exit_loss(training_batch(teacher, LABELS), [_output(student)], "last", "equal", 3).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def test_weights_are_equal_or_grow_with_depth():
    assert [exit_weight(layer, 4, "equal") for layer in range(4)] == [1, 1, 1, 1]
    assert [exit_weight(layer, 4, "depth") for layer in range(4)] == [0.25, 0.5, 0.75, 1]


def test_losses_add_up_with_their_weights():
    batch = training_batch(TEACHER, LABELS)
    logits = torch.randn(2, 2), torch.randn(2, 2)
    single = [torch.nn.functional.cross_entropy(z, LABELS).item() for z in logits]
    outputs = [_output(logits[0], layer=0), _output(logits[1], layer=2)]
    assert exit_loss(batch, outputs, "labels", "equal", 4).item() == pytest.approx(sum(single))
    weighted_sum = single[0] / 4 + single[1] * 3 / 4
    assert exit_loss(batch, outputs, "labels", "depth", 4).item() == pytest.approx(weighted_sum)


def test_an_exit_learns_only_from_the_texts_it_computed():
    batch = training_batch(torch.randn(3, 2), torch.tensor([0, 1, 0]))
    loss = exit_loss(batch, [_output(STUDENT[1:], rows=torch.tensor([2]))], "labels", "equal", 3)
    assert loss.item() == pytest.approx(-math.log(0.9))


TAGS = torch.tensor([[-100, 1, 0], [-100, 0, -100]])


@pytest.mark.parametrize("teacher", ["labels", "last"])
def test_tokens_without_a_label_are_ignored(teacher):
    """Special tokens, padding, later pieces of words: whatever their logits are."""
    logits, student = torch.randn(2, 3, 2), torch.randn(6, 2, requires_grad=True)
    loss = exit_loss(training_batch(logits, TAGS), [_output(student)], teacher, "equal", 3)
    labelled = [1, 2, 4]
    last = logits.flatten(0, 1)[labelled]
    expected = (
        torch.nn.functional.cross_entropy(student[labelled], torch.tensor([1, 0, 0]))
        if teacher == "labels"
        else distillation(student[labelled], last)
    )
    assert loss.item() == pytest.approx(expected.item())
    loss.backward()
    assert student.grad[[0, 3, 5]].abs().sum() == 0
    assert (student.grad[labelled].abs().sum(1) > 0).all()


@pytest.mark.parametrize("teacher", ["labels", "last"])
def test_where_no_token_has_a_label_the_loss_is_0_with_a_gradient(teacher):
    student = torch.randn(1, 2, requires_grad=True)
    batch = training_batch(torch.randn(2, 3, 2), TAGS)
    loss = exit_loss(batch, [_output(student, rows=torch.tensor([3]))], teacher, "equal", 3)
    assert loss.item() == 0.0
    loss.backward()
    assert student.grad.tolist() == [[0.0, 0.0]]


def test_labels_are_looked_up_by_row_and_required():
    batch = training_batch(torch.randn(2, 3, 2), TAGS)
    assert get_labels(batch, torch.tensor([1, 4])).tolist() == [1, 0]
    with pytest.raises(
        ValueError, match="labels must be given to exits that learn from labels; got none"
    ):
        get_labels(training_batch(TEACHER, None), torch.tensor([0]))
    with pytest.raises(ValueError, match="labels must be given to exits that learn from labels"):
        exit_loss(training_batch(TEACHER, None), [_output(STUDENT)], "labels", "equal", 3)
