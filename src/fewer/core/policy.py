"""Methods and policies: a method describes, a policy decides.

A `Method` is a frozen dataclass of plain numbers: printable, hashable, saved as JSON. Once the
model is known it builds its `Policy`, an `nn.Module` that holds what is learned and is asked in
every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer.core.cost import ModelSpec
from fewer.core.decision import Decision, Site, View
from fewer.core.needs import InputNeeds, Layout, Needs
from fewer.core.trace import Trace

__all__ = [
    "TARGET_MISSED",
    "CalibrationData",
    "Dense",
    "Dial",
    "Method",
    "ObservingPolicy",
    "Phase",
    "Policy",
    "PredictorResult",
    "TeacherOutput",
    "TrainingBatch",
]


TARGET_MET, TARGET_MISSED = 0.002, 0.01  # distances of a share from its target


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
    task: bool = True  # whether the loss of the model's own head counts
    teacher: bool = False  # whether the model as it was before the phase reads along
    part: tuple[int, ...] = ()  # whose phase it is where methods are stacked; (): of all together


@dataclass(frozen=True)
class TeacherOutput:
    """What a model said of a batch before the phase began, all of it read."""

    logits: Tensor  # as of a lesson
    trace: Trace  # with the states of the layers that the policy watches


@dataclass(frozen=True)
class TrainingBatch:
    """What a policy may learn from: one pass over a batch whose answers are known."""

    trace: Trace
    phase: Phase
    step: int  # of the phase, from 0
    logits: Tensor  # of the model's own head: (B, C), or (B, N, C) of tags, of starts and ends
    labels: Tensor | None  # (B,), (B, N) with -100 where there is none, (B, 2) of spans
    loss: Callable[[Tensor, Tensor], Tensor]  # the task's, of logits (R, C) and labels (R,)
    relevant: Tensor | None = None  # (B, N): 1 a token of the answer, 2 of evidence for it
    teacher: TeacherOutput | None = None  # the model as it was, where the phase asks for it


@dataclass(frozen=True)
class CalibrationData:
    """What a policy may be fitted on when a phase calibrates: a sample of rows."""

    first: bool  # whether the phase is still to come
    share: Callable[[], float]  # of the dense FLOPs, with decisions carried out
    lessons: Callable[[], Iterator[TrainingBatch]]  # batch by batch; exits speak and nobody exits

    def meet(
        self, target: float, turn: Callable[[float], object], low: float, high: float, start: float
    ) -> float:
        """Bisect what `turn` sets, between two positive numbers, until the share is the target.

        The share falls as the number grows; +-0.002 will do. Returns how far it is off at last.
        """
        value, gap = start, 0.0
        while high / low > 1.001:
            turn(value)
            gap = self.share() - target
            if abs(gap) < TARGET_MET:
                break
            low, high = (value, high) if gap > 0 else (low, value)
            value = (low * high) ** 0.5
        return gap


@dataclass(frozen=True)
class PredictorResult:
    """What a predictor of one layer said of parts of texts, and what is true of them."""

    layer: int
    logits: Float[Tensor, "R 2"]  # of what may go, of what matters
    matters: Int[Tensor, "R"]  # 0 or 1


@dataclass(frozen=True)
class Dial:
    """A threshold that may be turned after training: from never leaving to leaving at once."""

    value: Tensor  # the policy's own buffer, a single number
    never: float
    grid: tuple[float, ...]  # from strict to eager, for a sweep
    check: Callable[[float], None]  # raises `ValueError` outside the range


class Policy(nn.Module):
    """Decides nothing: every token reads every layer. Methods override what they need."""

    sites: frozenset[Site] = frozenset()
    answers: bool = False  # whether its heads may answer instead of the model's own
    renormalises_frozen: bool = False  # whether states at rest take on each layer's norm
    inputs: InputNeeds = InputNeeds()

    def needs(self, layer: int) -> Needs:
        """Return what the loop must compute in this layer for the decision or the loss."""
        return Needs()

    def layout(self, layer: int) -> Layout:
        """Return which pairs of tokens attend in this layer."""
        return Layout()

    def decide(self, view: View) -> Decision | None:
        """Say what becomes of each token; `None` when there is nothing to say."""
        return None

    def loss(self, lesson: TrainingBatch) -> Tensor:
        """Return what the method adds to the task's loss (a scalar)."""
        return torch.zeros((), device=lesson.trace.device)

    def predictor_results(self, trace: Trace, relevant: Tensor) -> tuple[PredictorResult, ...]:
        """Compare what predictors said with the tokens that hold answers, `(B, N)` as of a lesson.

        Empty for methods that predict nothing.
        """
        return ()

    def calibrate(self, phase: Phase, rehearsal: CalibrationData) -> None:
        """Fit what is learned to a wanted share of FLOPs, or to held-out answers."""

    def dial(self) -> Dial | None:
        """Return the threshold that decides how eagerly texts or tokens leave, if there is one."""
        return None

    def start_from(self, pooler: nn.Linear) -> None:
        """Start heads that read [CLS] as tanh(W h + b) from the model's own W and b, copied.

        Called once, after the policy is built, for a model whose head has such a pooler.
        """

    def inherit(self, method: Method, policy: Policy) -> tuple[tuple[int, ...], ...]:
        """Take over what `policy`, the trained one of `method`, has learned.

        Returns the paths of the parts that need no training now, `((),)` for all of it.
        """
        return ()

    def part(self, path: tuple[int, ...]) -> Policy:
        """Return the policy that a phase's `part` means: this one, unless it is a stack."""
        return self

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """Act inside the block as a phase wants it: what is stacked above its part is silent."""
        yield


class ObservingPolicy(Policy):
    """Decides nothing, but records the states that another policy learns from: for a teacher."""

    def __init__(self, learner: Policy) -> None:
        super().__init__()
        self._needs = learner.needs  # not the learner: its parameters are none of a teacher's

    def needs(self, layer: int) -> Needs:
        """Return the states that the learner needs."""
        return Needs(states=self._needs(layer).states)


@runtime_checkable
class Method(Protocol):
    """A description that can build its policy. Implementations are frozen dataclasses."""

    def build(self, shape: ModelSpec) -> Policy:
        """Make the module for a model of this shape; raises `ValueError` where it does not fit."""
        ...

    def phases(self) -> tuple[Phase, ...]:
        """Return the stages of training after the dense fine-tune, in order."""
        ...


@dataclass(frozen=True)
class Dense:
    """No method: every token reads every layer, packed, without padding."""

    def build(self, shape: ModelSpec) -> Policy:
        """Make a policy that decides nothing."""
        return Policy()

    def phases(self) -> tuple[Phase, ...]:
        """Nothing to train beyond the dense fine-tune."""
        return ()
