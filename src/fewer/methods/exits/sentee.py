"""SENTEE: sentence-level early exit for tagging (Li et al., ACL 2021).

https://arxiv.org/abs/2105.13878. After each layer a linear head tags every token. A sentence
leaves, with the tags of that layer, when its most doubtful token is certain enough:

    U_l  =  max over tokens t of H(p_l[t]) / ln C   <   delta

`pool="mean"` averages over the tags instead, which many easy tokens dilute. Heads and model train
together: the sum over layers of l CE_l / sum of l.

What differs from the authors' code: sentences leave a batch of any size; every piece of a word is
tagged and counts, where there only the first is; entropies stay finite for any logits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from fewer.core.cost import ModelSpec
from fewer.core.decision import Decision, Site, View
from fewer.core.policy import CalibrationData, Dial, Method, Phase, Policy, TrainingBatch
from fewer.methods.exits.threshold import check_threshold, open_exits
from fewer.methods.exits.words import UNCERTAINTY, WordHeads, ends_of

__all__ = ["SENTEE", "SENTEEPolicy"]


@dataclass(frozen=True, kw_only=True)
class SENTEE:
    """Let a sentence leave when all of its tags are certain enough."""

    layers: tuple[int, ...] | None = (
        None  # exits after so many layers; None: after all but the last
    )
    threshold: float | None = None  # delta, of the normalised entropy; None: 0.1
    target: float | None = None  # share of the dense FLOPs to keep; chooses the threshold
    pool: Literal["max", "mean"] = "max"
    epochs: float = 5.0
    learning_rates: tuple[float, float] = (3e-5, 1e-3)  # of the model, of the heads

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        object.__setattr__(self, "learning_rates", tuple(self.learning_rates))
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(self.layers))
        check_threshold(UNCERTAINTY, self.threshold, self.target)
        if self.pool not in ("max", "mean"):
            raise ValueError(f"pool is {self.pool!r}, wanted 'max' or 'mean'")

    def build(self, shape: ModelSpec) -> SENTEEPolicy:
        """Make the heads."""
        return SENTEEPolicy(self, shape)

    def phases(self) -> tuple[Phase, ...]:
        """Model and heads together."""
        model, heads = self.learning_rates
        return (
            Phase(
                "exits",
                "compact",
                "all",
                self.epochs,
                model,
                heads,
                regularise=True,
                calibrate=True,
                holds_out=True,
            ),
        )


class SENTEEPolicy(Policy):
    """The heads of SENTEE. In training mode they only speak."""

    sites = frozenset({Site.AFTER})
    answers = True

    def __init__(self, method: SENTEE, shape: ModelSpec) -> None:
        super().__init__()
        self.method = method
        self.heads = WordHeads(method.layers, shape)
        self.threshold: Tensor
        self.register_buffer("threshold", torch.tensor(0.0))  # nobody leaves

    def decide(self, view: View) -> Decision | None:
        """Let those sentences leave whose tags are all certain enough."""
        if view.layer not in self.heads.layers:
            return None
        said, rows, spent = self.heads.speak(view)
        if self.training:
            return Decision(exit_outputs=(said,), head_flops=spent)
        tokens = view.tokens
        doubts = self.heads.doubts(said, rows, view)
        sequence = tokens.sequence[rows]
        doubt = torch.zeros(tokens.grid[0], device=doubts.device)
        if self.method.pool == "max":
            doubt = doubt.scatter_reduce(0, sequence, doubts, "amax")
        else:
            tags = doubt.index_add(0, sequence, (~ends_of(view)[rows]).float())
            doubt = doubt.index_add(0, sequence, doubts) / tags.clamp_min(1.0)
        leaves = doubt < self.threshold
        said = replace(said, final=leaves[sequence])
        return Decision(leaves=leaves, exit_outputs=(said,), head_flops=spent)

    def dial(self) -> Dial:
        """Return the threshold."""
        return self.heads.dial(self.threshold)

    def loss(self, lesson: TrainingBatch) -> Tensor:
        """Add up the losses of the exits."""
        return self.heads.loss(lesson)

    def inherit(self, method: Method, policy: Policy) -> tuple[tuple[int, ...], ...]:
        """Take over what TOKEE has learned: its first phase is all of SENTEE's training."""
        dial = policy.dial()
        if dial is None or not self.heads.take_over(policy):
            return ()
        given = dial.value if self.method.threshold is None else self.method.threshold
        self.threshold.fill_(float(given))
        return ((),)

    def calibrate(self, phase: Phase, rehearsal: CalibrationData) -> None:
        """Open the exits at the method's threshold, or at the one that meets its target."""
        if not rehearsal.first:
            own = self.method
            open_exits(self.dial(), UNCERTAINTY, own.threshold, own.target, rehearsal)
