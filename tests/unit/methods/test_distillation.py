import math

import pytest
import torch

from fewer.core.cost import Task
from fewer.core.decision import Decision
from fewer.core.trace import DecisionRecord, Trace
from fewer.methods.distillation import (
    distance_to,
    distillation,
    remaining_cross_entropy,
    split_sides,
)
from tests.batches import training_batch

TEACHER = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log()
STUDENT = torch.tensor([[0.25, 0.75], [0.9, 0.1]]).log()
# KL(teacher || student) of the first row; the second is 0
FORWARD = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
BACKWARD = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)


def test_distillation_is_the_divergence_of_the_student_from_the_teacher():
    assert distillation(STUDENT, TEACHER).item() == pytest.approx(FORWARD / 2)
    assert distillation(TEACHER, STUDENT).item() == pytest.approx(BACKWARD / 2)
    reverse = distillation(STUDENT, TEACHER, reverse=True)
    assert reverse.item() == pytest.approx(BACKWARD / 2)
    assert abs(BACKWARD - FORWARD) > 0.01


def test_distillation_is_0_where_both_have_the_same_probabilities():
    logits = torch.randn(4, 5)
    assert distillation(logits, logits).item() == pytest.approx(0.0, abs=1e-6)
    assert distillation(logits, logits + 3).item() == pytest.approx(0.0, abs=1e-6)


def test_the_teacher_gets_no_gradient_and_the_student_its_difference():
    teacher, student = TEACHER.clone().requires_grad_(), STUDENT.clone().requires_grad_()
    distillation(student, teacher).backward()
    assert teacher.grad is None
    # d KL / dz = q - p, over two rows
    torch.testing.assert_close(student.grad, (STUDENT.exp() - TEACHER.exp()) / 2)


def test_numbers_are_distilled_by_squared_distance():
    student = torch.tensor([[1.0], [2.0]])
    teacher = torch.tensor([[2.0], [5.0]], requires_grad=True)
    assert distillation(student, teacher).item() == 5.0
    assert distillation(student.requires_grad_(), teacher).requires_grad


def test_a_confident_teacher_gives_a_finite_loss():
    teacher = torch.tensor([[1e4, -1e4]])
    for student in (-teacher, teacher, torch.zeros(1, 2)):
        assert torch.isfinite(distillation(student, teacher))


def test_a_temperature_flattens_both_and_is_made_up_for():
    hot = distillation(STUDENT, TEACHER, temperature=2.0)
    assert hot.item() == pytest.approx(4 * distillation(STUDENT / 2, TEACHER / 2).item())


def _batch(logits, lengths=None):
    grid = tuple(logits.shape[:2])
    trace = Trace(grid, logits.device)
    if lengths is not None:
        is_token = torch.arange(grid[1]) < torch.tensor(lengths)[:, None]
        trace.real = is_token.flatten().nonzero().squeeze(1)
    return training_batch(trace, logits)


def test_classes_of_a_text_are_compared_among_themselves():
    distance = distance_to(_batch(STUDENT), TEACHER, Task.TEXT)
    assert distance.item() == pytest.approx(FORWARD / 2)


def test_vectors_are_compared_by_their_squared_distance():
    distance = distance_to(_batch(torch.zeros(2, 2)), torch.tensor([[1.0, 2], [3, 4]]), Task.VECTOR)
    assert distance.item() == 7.5


def test_starts_and_ends_compete_over_the_tokens_of_their_text():
    # the third column of the first text is padding
    student, teacher = torch.randn(2, 3, 2), torch.randn(2, 3, 2)
    distance = distance_to(_batch(student, (2, 3)), teacher, Task.SPAN)
    rows = [
        distillation(student[text, :n, side][None], teacher[text, :n, side][None])
        for text, n in ((0, 2), (1, 3))
        for side in (0, 1)
    ]
    torch.testing.assert_close(distance, torch.stack(rows).mean())


def test_tags_are_compared_token_by_token_without_padding():
    student, teacher = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    distance = distance_to(_batch(student, (2, 3)), teacher, Task.TOKEN)
    expected = distillation(
        torch.cat((student[0, :2], student[1])), torch.cat((teacher[0, :2], teacher[1]))
    )
    torch.testing.assert_close(distance, expected)


def test_sides_of_spans_lie_in_rows_of_their_own():
    logits = torch.arange(12.0).view(2, 3, 2)
    assert split_sides(logits).tolist() == [[0, 2, 4], [1, 3, 5], [6, 8, 10], [7, 9, 11]]


def test_independent_labels_diverge_as_binary_answers():
    student, teacher = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, -1.0]])
    p, q = teacher.sigmoid().double(), student.sigmoid().double()
    expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    assert distillation(student, teacher, independent=True) == pytest.approx(float(expected))
    assert float(distillation(teacher, teacher, independent=True)) == pytest.approx(0.0, abs=1e-7)


def test_what_a_teacher_gives_to_pruned_tokens_teaches_nothing():
    """Of three tokens the last is pruned: s = softmax over the first two, t over all three."""
    teacher = torch.tensor([[[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]]])
    student = torch.tensor([[[1.0, 0.0], [0.0, 0.0], [9.0, 9.0]]], requires_grad=True)
    batch = _batch(student)
    batch.trace.decisions.append(
        DecisionRecord(
            torch.arange(3),
            torch.zeros(3, dtype=torch.long),
            Decision.keep(torch.tensor([True, True, False])),
        )
    )
    loss = remaining_cross_entropy(batch, teacher)
    starts = torch.tensor([1.0, 0.0]).log_softmax(0)
    expected = -(0.5 * starts[0] + 0.3 * starts[1] + 0.4 * math.log(0.5)) / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert not student.grad[0, 2].any()
    assert torch.isfinite(student.grad).all()
