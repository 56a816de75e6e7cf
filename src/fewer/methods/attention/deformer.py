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

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fewer.core.cost import ModelSpec
from fewer.core.needs import InputNeeds, Layout, Needs
from fewer.core.policy import Phase, Policy, TrainingBatch
from fewer.kernels.call import masked_score

__all__ = ["DeFormer", "DeFormerPolicy"]


@dataclass(frozen=True, kw_only=True)
class DeFormer:
    """Let question and passage ignore each other in the lower layers."""

    lower: int | None = None  # k, layers; None: half of the model's
    distillation: float = 1.0  # alpha
    similarity: float = 1.0  # beta
    temperature: float = 2.0  # tau
    epochs: float = 2.0
    learning_rate: float = 5e-5

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if self.lower is not None and self.lower < 1:
            raise ValueError(f"lower is {self.lower}, wanted at least one layer, or None for half")
        if min(self.distillation, self.similarity) < 0 or self.temperature <= 0:
            raise ValueError(
                f"distillation is {self.distillation}, similarity {self.similarity}, temperature "
                f"{self.temperature}; wanted weights of 0 or more and a positive temperature"
            )

    def lower_of(self, shape: ModelSpec) -> int:
        """Return k for a model. Raises `ValueError` if it has no upper layer then."""
        lower = shape.num_layers // 2 if self.lower is None else self.lower
        if not 0 < lower < shape.num_layers:
            raise ValueError(
                f"DeFormer wants a lower and an upper layer at least; the model has "
                f"{shape.num_layers}, lower is {lower}"
            )
        return lower

    def build(self, shape: ModelSpec) -> DeFormerPolicy:
        """Make the policy, which learns nothing itself."""
        return DeFormerPolicy(self, shape)

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
    """Says in which layers the texts of a pair are read apart."""

    inputs = InputNeeds(second_text=True, restarts_positions=True)

    def __init__(self, method: DeFormer, shape: ModelSpec) -> None:
        super().__init__()
        self.method = method
        self.lower = method.lower_of(shape)

    def layout(self, layer: int) -> Layout:
        """Split the pairs in the lower layers."""
        return Layout(split_pairs=layer < self.lower)

    def needs(self, layer: int) -> Needs:
        """Return the states of the upper layers while training."""
        states = self.training and layer >= self.lower and self.method.similarity > 0
        return Needs(states=states)

    def loss(self, lesson: TrainingBatch) -> Tensor:
        """Add up the distance of the answers and that of the upper layers' states."""
        own, teacher = self.method, lesson.teacher
        if teacher is None:
            return lesson.logits.new_zeros(())
        slots = lesson.trace.readers[0][0]
        real = torch.zeros(lesson.trace.grid, dtype=torch.bool, device=slots.device)
        real.view(-1)[slots] = True
        loss = own.distillation * _distance(lesson.logits, teacher.logits, real, own.temperature)
        apart = [
            _similarity(lesson.trace.states[layer], states)
            for layer, states in teacher.trace.states.items()
            if layer in lesson.trace.states
        ]
        return loss + own.similarity * torch.stack(apart).mean() if apart else loss


def _distance(student: Tensor, teacher: Tensor, real: Tensor, temperature: float) -> Tensor:
    """Return tau^2 KL(teacher || student) a text; spans compete over the real tokens of theirs."""
    if student.ndim == 3:
        unreal, floor = ~real[..., None], masked_score(torch.float32)
        student, teacher = (
            logits.float().masked_fill(unreal, floor).transpose(1, 2).flatten(0, 1)
            for logits in (student, teacher)
        )
    divergence: Tensor = nn.functional.kl_div(
        torch.log_softmax(student.float() / temperature, -1),
        torch.log_softmax(teacher.float() / temperature, -1),
        reduction="batchmean",
        log_target=True,
    )
    return temperature**2 * divergence


def _similarity(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
    """Mean squared distance of the states of the tokens that both have."""
    (slots, states), (known, wanted) = student, teacher
    return nn.functional.mse_loss(states.float(), wanted[torch.searchsorted(known, slots)].float())
