"""How far answers are from those of a teacher, by the kind of answer; for methods that distil."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fewer.core.cost import Task
from fewer.core.learning import TrainingBatch
from fewer.kernels.call import masked_score

__all__ = [
    "binary_logits",
    "distance_to",
    "distillation",
    "remaining_cross_entropy",
    "span_probabilities",
    "split_sides",
]


def distillation(
    student: Float[Tensor, "R C"],
    teacher: Float[Tensor, "R C"],
    *,
    temperature: float = 1.0,
    reverse: bool = False,
    independent: bool = False,
) -> Tensor:
    """temperature^2 * KL(teacher || student), averaged over rows; the teacher gets no gradient.

    `reverse`: KL(student || teacher). `independent`: each column is a label that applies or not,
    with sigmoid(z) its probability; the divergences of all labels are averaged. Without it, one
    column is a number: its squared distance.
    """
    student, teacher = student.float(), teacher.detach().float()
    if independent:
        student, teacher = (binary_logits(z).flatten(0, 1) for z in (student, teacher))
    elif teacher.shape[1] == 1:
        return nn.functional.mse_loss(student, teacher)
    of_student = (student / temperature).log_softmax(-1)
    of_teacher = (teacher / temperature).log_softmax(-1)
    first, second = (of_teacher, of_student) if reverse else (of_student, of_teacher)
    divergence = nn.functional.kl_div(first, second, reduction="batchmean", log_target=True)
    return temperature**2 * divergence


def distance_to(
    batch: TrainingBatch,
    teacher: Tensor,
    task: Task,
    *,
    temperature: float = 1.0,
    reverse: bool = False,
) -> Tensor:
    """Return the `distillation` of a batch's answers from logits of the same shape.

    Starts and ends of a span compete over the tokens of their text, tags of a token and classes of
    a text among themselves; labels of a text are independent, and vectors are compared by their
    squared distance. Padding is left out.
    """
    student, padding = batch.logits, batch.trace.padding
    if task is Task.VECTOR:
        return nn.functional.mse_loss(student.float(), teacher.detach().float())
    if task is Task.SPAN:
        student, teacher = _compete(student, padding), _compete(teacher, padding)
    elif student.ndim == 3:
        student, teacher = student[~padding], teacher[~padding]
    return distillation(
        student,
        teacher,
        temperature=temperature,
        reverse=reverse,
        independent=task is Task.MULTI_LABEL,
    )


def span_probabilities(
    logits: Float[Tensor, "B N 2"], padding: Bool[Tensor, "B N"]
) -> Float[Tensor, "B 2 N"]:
    """How probable it is that an answer begins, and ends, at each token of its text."""
    probabilities: Tensor = _compete(logits.detach().float(), padding).softmax(-1)
    return probabilities.view(len(logits), 2, -1)


def remaining_cross_entropy(batch: TrainingBatch, target: Float[Tensor, "B 2 N"]) -> Tensor:
    """-sum over the tokens that are left of t log s, for starts and ends, averaged over texts.

    t are the probabilities to learn over all tokens, s the model's over those that are left: what t
    gives to tokens that were pruned teaches nothing here.
    """
    trace = batch.trace
    gone = trace.padding | trace.dropped
    of_student = _compete(batch.logits.float(), gone).log_softmax(-1)
    weighted: Tensor = target * of_student.view_as(target)
    return -weighted.masked_fill(gone[:, None], 0.0).sum(-1).mean()


def binary_logits(logits: Float[Tensor, "R C"]) -> Float[Tensor, "R C 2"]:
    """Logits of two classes for each label, 0 and z: softmax gives 1 - sigmoid(z), sigmoid(z)."""
    return torch.stack((torch.zeros_like(logits), logits), -1)


def split_sides(logits: Float[Tensor, "B N 2"]) -> Float[Tensor, "2*B N"]:
    """Put starts and ends in rows of their own, text by text."""
    return logits.transpose(1, 2).flatten(0, 1)


def _compete(
    logits: Float[Tensor, "B N 2"], padding: Bool[Tensor, "B N"]
) -> Float[Tensor, "2*B N"]:
    hidden = masked_score(logits.dtype)
    return split_sides(logits.masked_fill(padding[..., None], hidden))
