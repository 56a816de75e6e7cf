"""How exits learn: from the labels or from the last layer, at once, after it or in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from fewer.core.decision import ExitOutput
from fewer.core.learning import TrainingBatch
from fewer.methods.distillation import distillation

__all__ = [
    "Teacher",
    "Weights",
    "alternating_loss",
    "exit_loss",
    "exit_weight",
    "get_labels",
    "weighted_sum",
]

Teacher = Literal["labels", "last"]
Weights = Literal["equal", "depth"]
NO_LABEL = -100


def exit_loss(
    batch: TrainingBatch,
    outputs: Sequence[ExitOutput],
    teacher: Teacher,
    weights: Weights,
    num_layers: int,
    *,
    independent: bool = False,
) -> Tensor:
    """Add up the losses of all exits but the last, which is the model's own head.

    `labels`: the task's loss. `last`: KL(p_L || p_l), the last layer's answer detached (FastBERT);
    its mean over `independent` labels; squared distance where the answer is a number. `depth`
    weighs the exit of layer l by l / L (PABEE: l / sum of l; the same up to a factor of the whole
    loss, with the last layer's at 1).
    """
    score = partial(_output_loss, batch, teacher=teacher, independent=independent)
    return weighted_sum(outputs, weights, num_layers, score)


def weighted_sum(
    outputs: Sequence[ExitOutput],
    weights: Weights,
    num_layers: int,
    score: Callable[[ExitOutput], Tensor],
) -> Tensor:
    """Add up the score of each exit, `equal`ly or by `depth`."""
    losses = [exit_weight(output.layer, num_layers, weights) * score(output) for output in outputs]
    return torch.stack(losses).sum()


def alternating_loss(batch: TrainingBatch, training: str, loss: Callable[[], Tensor]) -> Tensor:
    """Return the exits' loss; `alternating`, it is 0 at every other step, beginning with the first.

    No parameter is left without a gradient then.
    """
    if training != "alternating" or batch.step % 2 == 1:
        return loss()
    sums = [output.logits.sum() for output in batch.trace.exit_outputs]
    return torch.stack([batch.logits.new_zeros(()), *sums]).sum() * 0


def exit_weight(layer: int, num_layers: int, weights: Weights) -> float:
    """Weight of the exit after `layer` (from 0), where the last layer's is 1."""
    return (layer + 1) / num_layers if weights == "depth" else 1.0


def get_labels(batch: TrainingBatch, rows: Int[Tensor, "R"]) -> Tensor:
    """Labels of the texts or tokens of an exit, `(R)`, or `(R, C)` where a text has several.

    Raises `ValueError` without labels.
    """
    if batch.labels is None:
        raise ValueError(
            "labels must be given to exits that learn from labels; got none. Add the column."
        )
    labels = batch.labels.reshape(batch.logits.flatten(0, -2).shape[0], -1)[rows]
    return labels.squeeze(1) if labels.shape[1] == 1 else labels


def _output_loss(
    batch: TrainingBatch, output: ExitOutput, *, teacher: Teacher, independent: bool
) -> Tensor:
    score: Callable[[Tensor, Tensor], Tensor]
    if teacher == "last":
        score = partial(distillation, independent=independent)
        target = batch.logits.flatten(0, -2)[output.rows]
    else:
        score, target = batch.loss, get_labels(batch, output.rows)
    labelled = _is_labelled(batch, output.rows)
    if labelled is None:
        return score(output.logits, target)
    if not bool(labelled.any()):
        return output.logits.sum() * 0
    return score(output.logits[labelled], target[labelled])


def _is_labelled(batch: TrainingBatch, rows: Tensor) -> Tensor | None:
    """Return which rows have a label, where rows are tokens: others are padding or special."""
    if batch.labels is None or batch.logits.ndim == 2:
        return None
    return batch.labels.flatten()[rows] != NO_LABEL
