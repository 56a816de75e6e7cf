"""SENTEE: sentence-level early exit for tagging (Li et al., ACL 2021).

https://arxiv.org/abs/2105.13878. After each layer a linear head tags every token. A sentence
exits, with the tags of that layer, when its least certain token is certain enough:

    U_l  =  max over tokens t of H(p_l[t]) / ln C   <   delta

`pool="mean"` averages over the tags instead, which many easy tokens dilute. Heads and model train
together: the sum over layers of l CE_l / sum of l.

What differs from the authors' code: sentences leave a batch of any size; every piece of a word is
tagged and counts, where there only the first is; entropies stay finite for any logits.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from fewer._validation.settings import settings
from fewer._validation.types import Fraction, LayerNumbers, NonNegative, Number, Pair
from fewer.core.cost import ModelSpec
from fewer.core.decision import Decision, Site, View
from fewer.core.learning import CalibrationData, TrainingBatch
from fewer.core.operating_points import OperatingPoints
from fewer.core.phase import Phase
from fewer.core.policy import ExitingPolicy, Method, Policy
from fewer.methods.exits.threshold import check_threshold, open_exits
from fewer.methods.exits.words import UNCERTAINTY, WordHeads, is_end

__all__ = ["SENTEE", "SENTEEPolicy"]


@settings
class SENTEE:
    """Let a sentence exit when all of its tags are certain enough."""

    # exits after so many layers; None: after all but the last
    layers: LayerNumbers | None = None
    threshold: Number | None = None  # delta, of the normalised entropy; None: 0.1
    target: Fraction | None = None  # share of the dense FLOPs to keep; chooses the threshold
    pool: Literal["max", "mean"] = "max"
    epochs: NonNegative = 5.0
    learning_rates: Pair = (3e-5, 1e-3)  # of the model, of the heads

    def __post_init__(self) -> None:
        """Refuse a threshold outside its range, or with a target."""
        check_threshold(UNCERTAINTY, self.threshold, self.target)

    def build(self, spec: ModelSpec) -> SENTEEPolicy:
        """Make the heads."""
        return SENTEEPolicy(self, spec)

    def phases(self) -> tuple[Phase, ...]:
        """Model and heads together."""
        model, heads = self.learning_rates
        return (
            Phase(
                "exits",
                "observe",
                "all",
                self.epochs,
                model,
                heads,
                regularise=True,
                calibrate=True,
                holds_out=True,
            ),
        )


class SENTEEPolicy(ExitingPolicy):
    """The heads of SENTEE."""

    sites = frozenset({Site.AFTER})

    def __init__(self, method: SENTEE, spec: ModelSpec) -> None:
        super().__init__()
        self.method = method
        self.heads = WordHeads(method.layers, spec)
        self.threshold: Tensor
        self.register_buffer("threshold", torch.tensor(0.0))  # no sentence exits

    def acts_in(self, layer: int, site: Site) -> bool:
        """Return whether there is a head after this layer."""
        return layer in self.heads.layers

    def decide(self, view: View) -> Decision | None:
        """Compute the heads; the sentences exit whose tags are all certain enough."""
        output, rows, flops = self.heads.compute(view)
        tokens = view.tokens
        of_tokens = self.heads.uncertainty(output, rows, view).detach()
        sequence = tokens.sequence[rows]
        uncertainty = torch.zeros(tokens.grid[0], device=of_tokens.device)
        if self.method.pool == "max":
            uncertainty = uncertainty.scatter_reduce(0, sequence, of_tokens, "amax")
        else:
            tags = uncertainty.index_add(0, sequence, (~is_end(view)[rows]).float())
            uncertainty = uncertainty.index_add(0, sequence, of_tokens) / tags.clamp_min(1.0)
        exits = UNCERTAINTY.match(uncertainty, self.threshold)
        output = replace(output, exited=exits[sequence], measure=uncertainty[sequence])
        return Decision(exits=exits, exit_outputs=(output,), head_flops=flops)

    def operating_points(self) -> OperatingPoints:
        """Return the threshold."""
        return self.heads.operating_points(self.threshold, of_texts=True)

    def loss(self, batch: TrainingBatch) -> Tensor:
        """Add up the losses of the exits."""
        return self.heads.loss(batch)

    def inherit(self, method: Method, policy: Policy) -> tuple[tuple[int, ...], ...]:
        """Take over what TOKEE has learned: its first phase is all of SENTEE's training."""
        points = policy.operating_points()
        if points is None or not self.heads.take_over(policy):
            return ()
        threshold = points.value if self.method.threshold is None else self.method.threshold
        self.threshold.fill_(float(threshold))
        return ((),)

    def calibrate(self, phase: Phase, data: CalibrationData) -> None:
        """Open the exits at the method's threshold, or at the one that meets its target."""
        if not data.first:
            points, method = self.operating_points(), self.method
            open_exits(points, UNCERTAINTY, method.threshold, method.target, data)
