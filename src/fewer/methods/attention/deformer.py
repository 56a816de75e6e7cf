"""DeFormer (Cao et al., ACL 2020, https://arxiv.org/abs/2005.00697).

In the lower k layers the two texts of a pair, a question and a passage, do not attend to each
other; the upper layers read them together. So a passage can be read through the lower layers once
and kept, for every question to come (`fewer.passages`). Each text counts its positions from 0.

The model learns its new task from what it was before:

    L  =  L_task  +  alpha * KD  +  beta * LRS
    KD   =  tau^2 * KL(teacher || student), both tempered by tau; of starts and ends the mean
    LRS  =  mean over the upper layers of the squared distance of the two models' states

What differs from the authors' code, and why:

- KD and LRS run over real tokens; theirs run over padding too.
- The question is as long as it is; theirs is padded to the longest there may be, and the upper
  layers pay for it.
- k is half of the layers by default, where theirs is three quarters: a model of 6 layers has less
  to give away than one of 12.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fewer._validation.settings import settings
from fewer._validation.types import Count, NonNegative, Positive
from fewer.core.cost import ModelSpec
from fewer.core.learning import TrainingBatch
from fewer.core.needs import InputNeeds, Layout, Needs
from fewer.core.phase import Phase
from fewer.core.policy import Policy
from fewer.core.trace import LayerTrace
from fewer.methods.distillation import distance_to

__all__ = ["DeFormer", "DeFormerPolicy"]


@settings
class DeFormer:
    """Let question and passage ignore each other in the lower layers."""

    lower: Count | None = None  # k, layers; None: half of the model's
    distillation: NonNegative = 1.0  # alpha
    similarity: NonNegative = 1.0  # beta
    temperature: Positive = 2.0  # tau
    epochs: NonNegative = 2.0
    learning_rate: NonNegative = 5e-5

    def lower_of(self, spec: ModelSpec) -> int:
        """Return k for a model. Raises `ValueError` if it has no upper layer then."""
        lower = spec.num_layers // 2 if self.lower is None else self.lower
        if not 0 < lower < spec.num_layers:
            raise ValueError(
                f"DeFormer wants a lower and an upper layer at least; the model has "
                f"{spec.num_layers}, lower is {lower}"
            )
        return lower

    def build(self, spec: ModelSpec) -> DeFormerPolicy:
        """Make the policy, which learns nothing itself."""
        return DeFormerPolicy(self, spec)

    def phases(self) -> tuple[Phase, ...]:
        """Train the model, with itself as it was for a teacher if there is anything to ask it."""
        return (
            Phase(
                "apart",
                "compact",
                "all",
                self.epochs,
                self.learning_rate,
                regularise=True,
                teacher=bool(self.distillation or self.similarity),
            ),
        )


class DeFormerPolicy(Policy):
    """Splits the pairs in the lower layers."""

    inputs = InputNeeds(second_text=True, restarts_positions=True)

    def __init__(self, method: DeFormer, spec: ModelSpec) -> None:
        super().__init__()
        self.method = method
        self.task = spec.task
        self.lower = method.lower_of(spec)

    def layout(self, layer: int, phase: Phase) -> Layout:
        """Split the pairs in the lower layers."""
        return Layout(split_pairs=layer < self.lower)

    def needs(self, layer: int, phase: Phase) -> Needs:
        """Return the states of the upper layers where a teacher's are compared with them."""
        compares = phase.teacher and self.method.similarity > 0
        return Needs(states=compares and layer >= self.lower)

    def loss(self, batch: TrainingBatch) -> Tensor:
        """Add up the distance of the answers and that of the upper layers' states."""
        method, teacher = self.method, batch.teacher
        if teacher is None:
            return batch.logits.new_zeros(())
        distance = distance_to(batch, teacher.logits, self.task, temperature=method.temperature)
        loss = method.distillation * distance
        distances = [
            _similarity(student_layer, teacher_layer)
            for student_layer, teacher_layer in zip(
                batch.trace.layers, teacher.trace.layers, strict=False
            )
            if student_layer.states is not None and teacher_layer.states is not None
        ]
        return loss + method.similarity * torch.stack(distances).mean() if distances else loss


def _similarity(student: LayerTrace, teacher: LayerTrace) -> Tensor:
    """Mean squared distance of the states of the tokens that both have."""
    assert student.slot is not None
    assert student.states is not None
    assert teacher.slot is not None
    assert teacher.states is not None
    target = teacher.states[torch.searchsorted(teacher.slot, student.slot)]
    return nn.functional.mse_loss(student.states.float(), target.float())
