"""Methods and policies: a method describes, a policy decides.

A `Method` is a frozen dataclass of plain numbers: printable, hashable, saved as JSON. Once the
model is known it builds its `Policy`, an `nn.Module` that holds what is learned and is asked in
every layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fewer.core.cost import Shape
from fewer.core.decision import Decision, Site, View
from fewer.core.trace import Trace

__all__ = ["Dense", "Method", "Phase", "Policy"]


class Policy(nn.Module):
    """Decides nothing: every token reads every layer. Methods override what they need."""

    sites: ClassVar[frozenset[Site]] = frozenset()

    def scored(self, layer: int) -> bool:
        """Tell the loop whether this layer's decision needs the attention received."""
        return False

    def decide(self, view: View) -> Decision | None:
        """Say what becomes of each token; `None` when there is nothing to say."""
        return None

    def loss(self, trace: Trace) -> Tensor:
        """Return what the method adds to the task's loss (a scalar)."""
        return torch.zeros((), device=trace.device)

    def calibrate(self, share: Callable[[], float]) -> None:
        """Fit what is learned to a wanted share of FLOPs.

        `share()` measures the present one, hard, on sample texts.
        """


@dataclass(frozen=True)
class Phase:
    """One stage of training: what trains, how decisions are carried out, how long, how fast."""

    name: str
    apply: str  # a name of `fewer.core.apply.APPLIES`
    trains: Literal["all", "model", "policy"]
    epochs: float
    learning_rate: float
    policy_learning_rate: float | None = None  # default: learning_rate
    regularise: bool = False  # whether the policy's own loss is added
    calibrate: bool = False  # whether the policy is fitted to its target, before and after


@runtime_checkable
class Method(Protocol):
    """A description that can build its policy. Implementations are frozen dataclasses."""

    def build(self, shape: Shape) -> Policy:
        """Make the module for a model of this shape; raises `ValueError` where it does not fit."""
        ...

    def phases(self) -> tuple[Phase, ...]:
        """Return the stages of training after the dense fine-tune, in order."""
        ...


@dataclass(frozen=True)
class Dense:
    """No method: every token reads every layer, packed, without padding."""

    def build(self, shape: Shape) -> Policy:
        """Make a policy that decides nothing."""
        return Policy()

    def phases(self) -> tuple[Phase, ...]:
        """Nothing to train beyond the dense fine-tune."""
        return ()
