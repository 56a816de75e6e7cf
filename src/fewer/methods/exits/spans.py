"""Exits of extractive question answering: who knows where the answer begins and ends may leave.

After a layer a linear map gives every token that is still there two logits, as the model's own head
does. With p_s and p_e their softmax over the n such tokens of a text, the text leaves with these
logits when the criterion is met on both:

| name | measured |
|---|---|
| `entropy` | (H(p_s) + H(p_e)) / 2, in nats |
| `normalised_entropy` | that / ln n; 0 where n = 1 |
| `probability` | max p_s x max p_e |
| `patience` | exits in a row whose best start and best end were those of the one before |
| `patient_confidence` | the largest normalised entropy of the last P exits |

Texts that are read in several windows leave window by window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fewer.backbones.fast_linear import in_rows
from fewer.core.cost import ModelSpec, linear_flops
from fewer.core.decision import Decision, ExitOutput, View
from fewer.core.policy import Dial, TrainingBatch
from fewer.kernels.call import masked_score
from fewer.methods.exits.calibrated import CalibratedExits
from fewer.methods.exits.criteria import in_a_row
from fewer.methods.exits.losses import distillation, in_turns, weighed

if TYPE_CHECKING:
    from fewer.methods.exits.early_exit import EarlyExit

__all__ = ["MEASURES", "Bounds", "SpanExitPolicy"]

LENGTH = 384  # tokens of a usual window: how many classes a sweep's thresholds are made for


@dataclass(frozen=True)
class Bounds:
    """What one exit says of the tokens of each text as its answer's start and end.

    A text without tokens gets some number, which means nothing.
    """

    log_p: Float[Tensor, "R 2"]
    slot: Int[Tensor, "R"]  # in the caller's grid
    text: Int[Tensor, "R"]
    texts: int  # B

    @classmethod
    def of(cls, said: ExitOutput, grid: tuple[int, int]) -> Bounds:
        """Take softmaxes over what was said of each text of a batch."""
        texts, columns = grid
        text = said.rows // columns
        shifted = said.logits - _peak(said.logits, text, texts)[text]
        total = shifted.new_zeros(texts, 2).index_add(0, text, shifted.exp())
        return cls(shifted - total.log()[text], said.rows, text, texts)

    @property
    def entropy(self) -> Float[Tensor, "B"]:
        """Mean of the two entropies, in nats."""
        each = (
            -self.log_p.exp() * self.log_p
        )  # no probability is so small that its logarithm is not
        return each.new_zeros(self.texts, 2).index_add(0, self.text, each).mean(1)

    @property
    def uncertainty(self) -> Float[Tensor, "B"]:
        """The mean entropy over its largest value, ln n: 0 .. 1."""
        tokens = torch.bincount(self.text, minlength=self.texts)
        return self.entropy / tokens.clamp_min(2).log()

    @property
    def probability(self) -> Float[Tensor, "B"]:
        """Product of the best start's and the best end's."""
        return _peak(self.log_p, self.text, self.texts).sum(1).exp()

    @property
    def best(self) -> Int[Tensor, "B 2"]:
        """Slots of the best start and the best end, the first of equals."""
        is_best = self.log_p == _peak(self.log_p, self.text, self.texts)[self.text]
        nowhere = torch.iinfo(self.slot.dtype).max
        slots = self.slot[:, None].expand_as(is_best).masked_fill(~is_best, nowhere)
        none = slots.new_full((self.texts, 2), nowhere)
        return none.scatter_reduce(0, _columns(self.text), slots, "amin")


def _peak(values: Float[Tensor, "R 2"], text: Int[Tensor, "R"], texts: int) -> Float[Tensor, "B 2"]:
    none = values.new_full((texts, 2), -torch.inf)
    return none.scatter_reduce(0, _columns(text), values, "amax")


def _columns(text: Int[Tensor, "R"]) -> Int[Tensor, "R 2"]:
    return text[:, None].expand(-1, 2)


def _agreements(said: Sequence[Bounds]) -> Float[Tensor, "B"]:
    best = torch.stack([one.best for one in said])  # (E, B, 2)
    return in_a_row((best.diff(dim=0) == 0).all(2))


# of what the exits so far said, the last of them last, and the patience of `patient_confidence`
MEASURES: dict[str, Callable[[Sequence[Bounds], int], Float[Tensor, "B"]]] = {
    "entropy": lambda said, _: said[-1].entropy,
    "normalised_entropy": lambda said, _: said[-1].uncertainty,
    "probability": lambda said, _: said[-1].probability,
    "patience": lambda said, _: _agreements(said),
    "patient_confidence": lambda said, patience: (
        torch.stack([one.uncertainty for one in said[-patience:]]).amax(0)
        if len(said) >= patience
        else torch.full_like(said[-1].uncertainty, math.inf)
    ),
}


class SpanExitPolicy(CalibratedExits):
    """Heads that answer with a span."""

    def __init__(self, method: EarlyExit, shape: ModelSpec) -> None:
        super().__init__(method, shape)
        if method.criterion not in MEASURES:
            raise ValueError(
                f"criterion is {method.criterion!r}, which judges whole texts, but the model "
                f"answers with a span; wanted one of {', '.join(MEASURES)}"
            )
        if method.head not in ("linear", type(method).head, *method.former_heads):
            raise ValueError(
                f"head is {method.head!r}, which makes one state of a text, but the model answers "
                "with a span, so every token speaks; wanted 'linear', or no head at all"
            )
        self.heads = nn.ModuleList(nn.Linear(shape.hidden_size, 2) for _ in self.layers)

    def decide(self, view: View) -> Decision | None:
        """Let every token speak after this layer, and those texts leave that are certain."""
        if view.layer not in self.layers:
            return None
        tokens = view.tokens
        said, spent = self._speak(view)
        if self.training:
            return Decision(exit_outputs=(said,), head_flops=spent)
        heard = (*view.trace.exit_outputs, said) if self.criterion.uses_previous_exits else (said,)
        bounds = [Bounds.of(one, tokens.grid) for one in heard]
        measured = MEASURES[self.method.criterion](bounds, self.method.patience)
        leaves = self.criterion.met(measured, self.threshold)
        final = leaves[bounds[-1].text]
        if not bool(final.any()):
            return Decision(exit_outputs=(said,), head_flops=spent)
        return Decision(leaves=leaves, exit_outputs=(replace(said, final=final),), head_flops=spent)

    def dial(self) -> Dial:
        """Return the threshold."""
        return self.criterion.dial(self.threshold, LENGTH, len(self.layers))

    def loss(self, lesson: TrainingBatch) -> Tensor:
        """Add up the exits' losses: the task's, or KL(p_L || p_l), of starts and ends the mean."""
        own = self.method
        score = _distilled if own.teacher == "last" else _task_loss
        return in_turns(
            lesson,
            own.training,
            lambda: weighed(
                lesson.trace.exit_outputs,
                own.weights,
                self.num_layers,
                lambda said: score(lesson, said),
            ),
        )

    def told(self, lessons: Sequence[TrainingBatch], number: int) -> tuple[Tensor, Tensor]:
        """Collect starts and ends, `(R, C)`, C of the longest batch."""
        width = max(lesson.trace.grid[1] for lesson in lessons)
        logits, labels = [], []
        for lesson in lessons:
            said, grid, places = (
                lesson.trace.exit_outputs[number],
                lesson.trace.grid,
                _labels(lesson),
            )
            there = _there(places, said, grid).flatten()
            sides = _sides(_laid(said.logits, said.rows, grid))[there]
            padding = (0, width - grid[1])
            logits.append(nn.functional.pad(sides, padding, value=masked_score(sides.dtype)))
            labels.append(places.flatten()[there])
        return torch.cat(logits), torch.cat(labels)

    def _speak(self, view: View) -> tuple[ExitOutput, Float[Tensor, "B"]]:
        """Ask every token that is there, at rest or not; and what that costs each text."""
        number, tokens = self.layers.index(view.layer), view.tokens
        hidden, slot, alive = tokens.hidden, tokens.slot, None
        if tokens.alive is not None:
            rows, alive = tokens.alive.nonzero().squeeze(1), tokens.alive.float()
            hidden, slot = hidden.index_select(0, rows), slot.index_select(0, rows)
        head = self.heads[number]
        logits = in_rows(head, hidden).float() / self.temperature[number]
        return ExitOutput(view.layer, slot, logits), linear_flops(head) * tokens.count(alive)


def _laid(
    logits: Float[Tensor, "R 2"], rows: Int[Tensor, "R"], grid: tuple[int, int]
) -> Float[Tensor, "B N 2"]:
    """Put logits in the caller's grid; what is not there has no chance."""
    empty = logits.new_full((grid[0] * grid[1], 2), masked_score(logits.dtype))
    return empty.index_copy(0, rows, logits).view(*grid, 2)


def _sides(laid: Float[Tensor, "B N 2"]) -> Float[Tensor, "2*B N"]:
    """Lay starts and ends below each other, text by text."""
    return laid.transpose(1, 2).flatten(0, 1)


def _distilled(lesson: TrainingBatch, said: ExitOutput) -> Tensor:
    grid = lesson.trace.grid
    last = lesson.logits.flatten(0, 1)[said.rows].float()
    return distillation(
        _sides(_laid(said.logits, said.rows, grid)), _sides(_laid(last, said.rows, grid))
    )


def _task_loss(lesson: TrainingBatch, said: ExitOutput) -> Tensor:
    """Score the texts whose answer is still there: what was dropped cannot be found."""
    labels = _labels(lesson)
    known = _there(labels, said, lesson.trace.grid).all(1)
    if not bool(known.any()):
        return said.logits.sum() * 0
    return lesson.loss(_laid(said.logits, said.rows, lesson.trace.grid)[known], labels[known])


def _labels(lesson: TrainingBatch) -> Int[Tensor, "B 2"]:
    if lesson.labels is None:
        raise ValueError(
            "the batch has no start_positions and end_positions; exits that learn from labels "
            "need them"
        )
    return lesson.labels


def _there(
    labels: Int[Tensor, "B 2"], said: ExitOutput, grid: tuple[int, int]
) -> Bool[Tensor, "B 2"]:
    """Say which places an exit has spoken of; those beyond the text it has not."""
    texts, columns = grid
    spoke = torch.zeros(texts, columns + 1, dtype=torch.bool, device=labels.device)
    spoke[said.rows // columns, said.rows % columns] = True
    return spoke.gather(1, labels.clamp(0, columns))
