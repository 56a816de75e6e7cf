"""Phases: the stages of training, and how the decisions of a policy are carried out in each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

__all__ = ["FINE_TUNING", "INFERENCE", "Pass", "Phase"]


@dataclass(frozen=True)
class Pass:
    """One of several forward passes over the same batch in one step of training."""

    apply: str  # a name of `fewer.core.apply.APPLIES`
    task: float = 1.0  # weight of the loss of the model's own head
    policy: float = 1.0  # weight of the policy's loss, where the phase regularises
    teacher: int | None = None  # the earlier pass that teaches this one: `TrainingBatch.teacher`


@dataclass(frozen=True)
class Phase:
    """One stage of training: what trains, how decisions are carried out, how long, how fast."""

    name: str
    apply: str  # a name of `fewer.core.apply.APPLIES`
    trains: Literal["all", "model", "policy"]
    epochs: float
    learning_rate: float
    # of what the policy learns, one for each part of a stack; default: learning_rate
    policy_learning_rate: float | tuple[float | None, ...] | None = None
    regularise: bool = False  # whether the policy's own loss is added
    calibrate: bool = False  # whether the policy is fitted to sample rows, before and after
    holds_out: bool = False  # whether those must be rows that nothing trains on
    reads_once: bool = False  # whether it is fitted in one pass over them: they may be many then
    task: bool = True  # whether the loss of the model's own head counts
    teacher: bool = False  # whether the model as it was before the phase teaches
    part: tuple[int, ...] = ()  # the part of a stack that the phase trains; (): all together
    exits: bool = False  # whether texts and tokens exit; else exit heads only compute logits
    passes: tuple[Pass, ...] = ()  # of each step, in order; (): one pass by `apply`
    number: int = 0  # the pass of the step that runs, as `of_pass` sets it

    def in_place(self, apply: str, *, exits: bool = False) -> Phase:
        """Return a phase that trains nothing, with the same part of a stack and those before it."""
        return Phase("in place", apply, "policy", 0.0, 0.0, part=self.part, exits=exits)

    def of_pass(self, number: int) -> Phase:
        """Return the phase as its pass `number` runs it."""
        return replace(self, apply=self.passes[number].apply, number=number)


# decisions are real
INFERENCE = Phase("inference", "compact", "policy", 0.0, 0.0, exits=True)
# of methods that are fitted to a sample in closed form: no step of training
CALIBRATION = Phase("calibrate", "compact", "policy", 0.0, 0.0, calibrate=True)
# a model in training mode outside of `fit`: tokens are pruned, none exits
FINE_TUNING = Phase("fine-tuning", "compact", "all", 0.0, 0.0)
