"""How exits learn: from the labels or from the last layer, at once, after it or in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fewer.core.decision import ExitOutput
from fewer.core.policy import TrainingBatch

__all__ = [
    "Teacher",
    "Weights",
    "distillation",
    "exit_loss",
    "exit_weight",
    "in_turns",
    "labels_of",
    "weighed",
]

Teacher = Literal["labels", "last"]
Weights = Literal["equal", "depth"]
NO_LABEL = -100


def exit_loss(
    lesson: TrainingBatch,
    spoken: Sequence[ExitOutput],
    teacher: Teacher,
    weights: Weights,
    num_layers: int,
) -> Tensor:
    """Add up the losses of all exits but the last, which is the model's own head.

    `labels`: the task's loss. `last`: KL(p_L || p_l), the last layer's answer detached (FastBERT);
    squared distance where the answer is a number. `depth` weighs the exit of layer l by l / L
    (PABEE: l / sum of l; the same up to a factor of the whole loss, with the last layer's at 1).
    """
    return weighed(spoken, weights, num_layers, lambda said: _one(lesson, said, teacher))


def weighed(
    spoken: Sequence[ExitOutput],
    weights: Weights,
    num_layers: int,
    score: Callable[[ExitOutput], Tensor],
) -> Tensor:
    """Add up what `score` says of each exit, `equal`ly or by `depth`."""
    losses = [exit_weight(said.layer, num_layers, weights) * score(said) for said in spoken]
    return torch.stack(losses).sum()


def in_turns(lesson: TrainingBatch, training: str, loss: Callable[[], Tensor]) -> Tensor:
    """Return the exits' loss; `alternating`, it is 0 at every other step, beginning with the first.

    No parameter is left without a gradient then.
    """
    if training != "alternating" or lesson.step % 2 == 1:
        return loss()
    spoken = lesson.trace.exit_outputs
    return sum((said.logits.sum() for said in spoken), start=lesson.logits.new_zeros(())) * 0


def exit_weight(layer: int, num_layers: int, weights: Weights) -> float:
    """Weight of the exit after `layer` (from 0), where the last layer's is 1."""
    return (layer + 1) / num_layers if weights == "depth" else 1.0


def distillation(student: Float[Tensor, "R C"], teacher: Float[Tensor, "R C"]) -> Tensor:
    """KL(teacher || student), averaged over rows; the teacher gets no gradient."""
    teacher = teacher.detach().float()
    if teacher.shape[1] == 1:
        return torch.nn.functional.mse_loss(student.float(), teacher)
    return torch.nn.functional.kl_div(
        torch.log_softmax(student.float(), -1),
        torch.log_softmax(teacher, -1),
        reduction="batchmean",
        log_target=True,
    )


def labels_of(lesson: TrainingBatch, rows: Int[Tensor, "R"]) -> Tensor:
    """Labels of the texts or tokens that an exit spoke of. Raises `ValueError` without labels."""
    if lesson.labels is None:
        raise ValueError("the batch has no labels; exits that learn from labels need them")
    return lesson.labels.flatten()[rows]


def _one(lesson: TrainingBatch, said: ExitOutput, teacher: Teacher) -> Tensor:
    last = lesson.logits.flatten(0, -2)[said.rows]
    known = _known(lesson, said.rows)
    score: Callable[[Tensor, Tensor], Tensor] = distillation if teacher == "last" else lesson.loss
    wanted = last if teacher == "last" else labels_of(lesson, said.rows)
    if known is None:
        return score(said.logits, wanted)
    return score(said.logits[known], wanted[known]) if bool(known.any()) else said.logits.sum() * 0


def _known(lesson: TrainingBatch, rows: Tensor) -> Tensor | None:
    """Which rows have a label, where rows are tokens: others are padding or special."""
    if lesson.labels is None or lesson.logits.ndim == 2:
        return None
    return lesson.labels.flatten()[rows] != NO_LABEL
