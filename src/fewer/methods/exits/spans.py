"""Exits of extractive question answering: a text exits when its start and end are certain.

After a layer a linear map gives every token that is still there two logits, as the model's own head
does. With p_s and p_e their softmax over the n such tokens of a text, the text exits with these
logits when the criterion is met on both:

| name | measured |
|---|---|
| `entropy` | (H(p_s) + H(p_e)) / 2, in nats |
| `normalised_entropy` | that / ln n; 0 where n = 1 |
| `probability` | max p_s x max p_e |
| `patience` | exits in a row whose best start and best end were those of the one before |
| `patient_confidence` | the largest normalised entropy of the last P exits |

Texts that are read in several windows exit window by window.
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
from fewer.core.decision import Decision, ExitOutput, Site, View
from fewer.core.learning import TrainingBatch
from fewer.core.operating_points import OperatingPoints
from fewer.core.partition import can_look
from fewer.kernels.call import masked_score
from fewer.methods.distillation import distillation, split_sides
from fewer.methods.exits.calibrated import CalibratedExits
from fewer.methods.exits.criteria import in_a_row
from fewer.methods.exits.heads import in_dtype_of
from fewer.methods.exits.losses import alternating_loss, weighted_sum

if TYPE_CHECKING:
    from fewer.methods.exits.early_exit import EarlyExit

__all__ = ["MEASURES", "Bounds", "SpanExitPolicy"]

LENGTH = 384  # tokens of a usual window: how many classes a sweep's thresholds are made for


@dataclass(frozen=True)
class Bounds:
    """Start and end probabilities of the tokens of each text, of one exit.

    A text without tokens gets some number, which means nothing.
    """

    log_p: Float[Tensor, "R 2"]
    slot: Int[Tensor, "R"]  # in the caller's grid
    text: Int[Tensor, "R"]
    texts: int  # B

    @classmethod
    def of(cls, output: ExitOutput, grid: tuple[int, int]) -> Bounds:
        """Take softmaxes over the tokens of each text of a batch."""
        texts, columns = grid
        text = output.rows // columns
        shifted = output.logits - _peak(output.logits, text, texts)[text]
        total = shifted.new_zeros(texts, 2).index_add(0, text, shifted.exp())
        return cls(shifted - total.log()[text], output.rows, text, texts)

    @property
    def entropy(self) -> Float[Tensor, "B"]:
        """Mean of the two entropies, in nats."""
        # finite: no probability is so small that its logarithm is not
        terms = -self.log_p.exp() * self.log_p
        return terms.new_zeros(self.texts, 2).index_add(0, self.text, terms).mean(1)

    @property
    def uncertainty(self) -> Float[Tensor, "B"]:
        """The mean entropy over its largest value, ln n: 0 .. 1."""
        count = torch.ones_like(self.log_p[:, 0])
        tokens = count.new_zeros(self.texts).index_add(0, self.text, count)
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


def _agreements(exits: Sequence[Bounds]) -> Float[Tensor, "B"]:
    best = torch.stack([bounds.best for bounds in exits])  # (E, B, 2)
    return in_a_row((best.diff(dim=0) == 0).all(2))


# of the exits so far, the last of them last, and the patience of `patient_confidence`
MEASURES: dict[str, Callable[[Sequence[Bounds], int], Float[Tensor, "B"]]] = {
    "entropy": lambda exits, _: exits[-1].entropy,
    "normalised_entropy": lambda exits, _: exits[-1].uncertainty,
    "probability": lambda exits, _: exits[-1].probability,
    "patience": lambda exits, _: _agreements(exits),
    "patient_confidence": lambda exits, patience: (
        torch.stack([bounds.uncertainty for bounds in exits[-patience:]]).amax(0)
        if len(exits) >= patience
        else torch.full_like(exits[-1].uncertainty, math.inf)
    ),
}


class SpanExitPolicy(CalibratedExits):
    """Heads that answer with a span."""

    def __init__(self, method: EarlyExit, spec: ModelSpec) -> None:
        super().__init__(method, spec)
        if method.criterion not in MEASURES:
            raise ValueError(
                f"criterion must be one of {', '.join(MEASURES)} for a model that answers with a "
                f"span; got {method.criterion!r}, which is that of whole texts."
            )
        if method.head not in ("linear", type(method).head, *method.former_heads):
            raise ValueError(
                "head must be 'linear', or left out, for a model that answers with a span; got "
                f"{method.head!r}, which makes one state of a text."
            )
        self.heads = nn.ModuleList(nn.Linear(spec.hidden_size, 2) for _ in self.layers)

    def acts_in(self, layer: int, site: Site) -> bool:
        """Return whether there is a head after this layer."""
        return layer in self.layers

    def decide(self, view: View) -> Decision | None:
        """Compute the head of every token after this layer; the texts exit that are certain."""
        output, flops = self._compute_head(view)
        outputs: tuple[ExitOutput, ...] = (output,)
        if self.criterion.uses_previous_exits:
            outputs = (*view.trace.exit_outputs, output)
        bounds = [Bounds.of(exit_output, view.tokens.grid) for exit_output in outputs]
        measure = MEASURES[self.method.criterion](bounds, self.method.patience)
        exits, text = self.criterion.match(measure, self.threshold), bounds[-1].text
        output, exited = replace(output, measure=measure[text]), exits[text]
        if can_look(exited) and not bool(exited.any()):
            return Decision(exit_outputs=(output,), head_flops=flops)
        output = replace(output, exited=exited)
        return Decision(exits=exits, exit_outputs=(output,), head_flops=flops)

    def operating_points(self) -> OperatingPoints:
        """Return the threshold."""
        return self.criterion.operating_points(
            self.threshold, LENGTH, len(self.layers), of_texts=True
        )

    def loss(self, batch: TrainingBatch) -> Tensor:
        """Add up the exits' losses: the task's, or KL(p_L || p_l), of starts and ends the mean."""
        method, outputs = self.method, batch.trace.exit_outputs
        score = _distillation_loss if method.teacher == "last" else _task_loss
        return alternating_loss(
            batch,
            method.training,
            lambda: weighted_sum(
                outputs, method.weights, self.num_layers, lambda output: score(batch, output)
            ),
        )

    def collect_logits(
        self, batches: Sequence[TrainingBatch], number: int
    ) -> tuple[Tensor, Tensor]:
        """Collect starts and ends, `(R, C)`, C of the longest batch."""
        width = max(batch.trace.grid[1] for batch in batches)
        logits, labels = [], []
        for batch in batches:
            output, grid = batch.trace.exit_outputs[number], batch.trace.grid
            columns = _get_columns(batch)
            is_known = _has_output(columns, output, grid).flatten()
            sides = split_sides(_to_grid(output.logits, output.rows, grid))[is_known]
            padding = (0, width - grid[1])
            logits.append(nn.functional.pad(sides, padding, value=masked_score(sides.dtype)))
            labels.append(columns.flatten()[is_known])
        return torch.cat(logits), torch.cat(labels)

    def _compute_head(self, view: View) -> tuple[ExitOutput, Float[Tensor, "B"]]:
        """Compute the head of every token that is alive, frozen or not, and its FLOPs per text."""
        number, tokens = self.layers.index(view.layer), view.tokens
        hidden, slot, alive = tokens.hidden, tokens.slot, None
        if tokens.alive is not None:
            rows, alive = tokens.alive.nonzero().squeeze(1), tokens.alive.float()
            hidden, slot = hidden.index_select(0, rows), slot.index_select(0, rows)
        head = self.heads[number]
        logits = in_rows(head, in_dtype_of(head, hidden)).float() / self.temperature[number]
        return ExitOutput(view.layer, slot, logits), linear_flops(head) * tokens.count(alive)


def _to_grid(
    logits: Float[Tensor, "R 2"], rows: Int[Tensor, "R"], grid: tuple[int, int]
) -> Float[Tensor, "B N 2"]:
    """Put logits in the caller's grid; places without a token have the probability 0."""
    empty = logits.new_full((grid[0] * grid[1], 2), masked_score(logits.dtype))
    return empty.index_copy(0, rows, logits).view(*grid, 2)


def _distillation_loss(batch: TrainingBatch, output: ExitOutput) -> Tensor:
    grid = batch.trace.grid
    last = batch.logits.flatten(0, 1)[output.rows].float()
    student, teacher = (
        split_sides(_to_grid(logits, output.rows, grid)) for logits in (output.logits, last)
    )
    return distillation(student, teacher)


def _task_loss(batch: TrainingBatch, output: ExitOutput) -> Tensor:
    """Score the texts whose answer is still there: on pruned tokens it cannot be found."""
    columns, grid = _get_columns(batch), batch.trace.grid
    is_known = _has_output(columns, output, grid).all(1)
    if not bool(is_known.any()):
        return output.logits.sum() * 0
    logits = _to_grid(output.logits, output.rows, grid)
    return batch.loss(logits[is_known], columns[is_known])


def _get_columns(batch: TrainingBatch) -> Int[Tensor, "B 2"]:
    if batch.labels is None:
        raise ValueError(
            "start_positions and end_positions must be given to exits that learn from labels; got "
            "none. Add the columns."
        )
    return batch.labels


def _has_output(
    columns: Int[Tensor, "B 2"], output: ExitOutput, grid: tuple[int, int]
) -> Bool[Tensor, "B 2"]:
    """Return which columns an exit has logits of; it has none beyond the text."""
    texts, width = grid
    has_logits = torch.zeros(texts, width + 1, dtype=torch.bool, device=columns.device)
    has_logits[output.rows // width, output.rows % width] = True
    return has_logits.gather(1, columns.clamp(0, width))
