"""Methods and policies: a method describes, a policy decides.

A `Method` is a frozen dataclass of plain numbers: printable, hashable, saved as JSON. Once the
model is known it builds its `Policy`, an `nn.Module` that holds what is learned and decides in
every layer.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fewer._validation.settings import settings
from fewer.core.cost import ModelSpec
from fewer.core.decision import Decision, Site, View
from fewer.core.learning import CalibrationData, PredictorResult, TrainingBatch
from fewer.core.needs import FULL_LAYOUT, NO_NEEDS, InputNeeds, Layout, Needs
from fewer.core.operating_points import OperatingPoints
from fewer.core.packed import Packed
from fewer.core.phase import Phase
from fewer.core.trace import Trace

__all__ = [
    "Dense",
    "EstimatingPolicy",
    "ExitingPolicy",
    "Inherits",
    "Method",
    "ObservingPolicy",
    "Policy",
    "PredictsRelevance",
    "StartsFromPooler",
    "may_decide",
]


class Policy(nn.Module):
    """Decides nothing: every token is computed in every layer. Methods override what they need.

    A decision must not depend on `self.training`: how it is carried out is the phase's matter.
    """

    sites: frozenset[Site] = frozenset()
    inputs: InputNeeds = InputNeeds()

    def needs(self, layer: int, phase: Phase) -> Needs:
        """Return what the loop must compute in this layer for the decision or the loss."""
        return NO_NEEDS

    def layout(self, layer: int, phase: Phase) -> Layout:
        """Return which pairs of tokens attend in this layer."""
        return FULL_LAYOUT

    def acts_in(self, layer: int, site: Site) -> bool:
        """Return whether `decide` may decide anything at this one of its sites; else not asked."""
        return True

    def begin(self, tokens: Packed, phase: Phase) -> Any:
        """Return what is drawn once for a whole pass: `View.state` in all of its layers."""
        return None

    def decide(self, view: View) -> Decision | None:
        """Return what becomes of each token; `None` when nothing is decided."""
        return None

    def loss(self, batch: TrainingBatch) -> Tensor:
        """Return what the method adds to the task's loss (a scalar)."""
        return torch.zeros((), device=batch.trace.device)

    def calibrate(self, phase: Phase, data: CalibrationData) -> None:
        """Fit what is learned to a FLOPs ratio, to labels, or to a score."""

    def operating_points(self) -> OperatingPoints | None:
        """Return the setting that decides how much is computed, if there is one to turn."""
        return None

    def forward(self, view: View) -> Decision | None:
        """Decide at the policy's sites, as far as the phase carries decisions out."""
        decision = self.decide(view) if may_decide(self, view.layer, view.site) else None
        if decision is None:
            return None
        if view.phase.apply == "observe":
            return decision.outputs_only()
        return decision.check() if view.phase.exits else decision.check().without_exits()


def may_decide(policy: Policy, layer: int, site: Site) -> bool:
    """Return whether a policy may decide anything here."""
    return site in policy.sites and policy.acts_in(layer, site)


class ExitingPolicy(Policy):
    """A policy whose heads may answer instead of the model's own, where the phase lets them."""

    def forward(self, view: View) -> Decision | None:
        """Decide; in phases without exits only the heads compute."""
        decision = super().forward(view)
        return decision if decision is None or view.phase.exits else decision.outputs_only()


class EstimatingPolicy(Policy):
    """A policy whose decisions have a shortcut: each token ends at a last state, or an estimate."""


@runtime_checkable
class StartsFromPooler(Protocol):
    """A module of a policy whose heads read [CLS] as tanh(W h + b)."""

    def start_from(self, pooler: nn.Linear) -> None:
        """Start from the W and b of the model's own pooler, copied, when a policy is attached."""
        ...


@runtime_checkable
class PredictsRelevance(Protocol):
    """A policy with predictors of what holds the answer to a question."""

    def predictor_results(self, trace: Trace, relevant: Tensor) -> tuple[PredictorResult, ...]:
        """Pair predictors' outputs with the tokens of answers, `(B, N)` as in a training batch."""
        ...


@runtime_checkable
class Inherits(Protocol):
    """A policy that may take over what another policy has learned."""

    def inherit(self, method: Method, policy: Policy) -> tuple[tuple[int, ...], ...]:
        """Take over what `policy`, the trained one of `method`, has learned.

        Returns the paths of the parts that need no training now, `((),)` for all of it.
        """
        ...


class ObservingPolicy(Policy):
    """Decides nothing, but records in the trace what another policy learns from: for a teacher."""

    def __init__(self, learner: Policy) -> None:
        super().__init__()
        self._needs = learner.needs  # not the learner: its parameters are none of a teacher's

    def needs(self, layer: int, phase: Phase) -> Needs:
        """Return what the learner needs in the trace: states, attention received."""
        needs = self._needs(layer, phase)
        return Needs(states=needs.states, received_in_trace=needs.received_in_trace)


@runtime_checkable
class Method(Protocol):
    """A description that can build its policy. Implementations are frozen dataclasses."""

    def build(self, spec: ModelSpec) -> Policy:
        """Make the module for a model; raises `ValueError` where it does not fit."""
        ...

    def phases(self) -> tuple[Phase, ...]:
        """Return the stages of training after the dense fine-tune, in order."""
        ...


@settings
class Dense:
    """No method: every token is computed in every layer, packed, without padding."""

    def build(self, spec: ModelSpec) -> Policy:
        """Make a policy that decides nothing."""
        return Policy()

    def phases(self) -> tuple[Phase, ...]:
        """Return no phase: there is nothing to train beyond the dense fine-tune."""
        return ()
