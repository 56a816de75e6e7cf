"""Cascade reranking: documents leave the list of a query once they cannot reach the top k.

Of the documents of one query only the best are wanted, so the worst need not be read to the end.
Before the first layer, and after each but the last, a linear head estimates the score that the
model will give, from features f of the pair (`fewer.methods.exits.pair_features`): its states, and
how alike those of the query and of the document are:

    s_l = w_l . f + b_l

A document leaves when s_l < t - margin * e_l, t the k-th best estimate of the list (or score of a
document that was read to the end), e_l the standard deviation of the estimate's error. The Cascade
Transformer (Soldaini and Moschitti, ACL 2020, https://aclanthology.org/2020.acl-main.504) drops a
fixed share of the list after some layers, by heads that it trains. Here the heads are ridge
regressions on the model's own scores of unlabelled pairs, so nothing trains, the model stays as it
is, and how many leave depends on the list.

What a document scores depends on no other; whether it is read to the end does. So documents leave
only in `fewer.rank(..., top_k=k)` and where lists are evaluated. In all other passes the model is
dense.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fewer._validation.settings import settings, validate
from fewer._validation.types import NonNegative
from fewer.core.candidates import current_candidates
from fewer.core.cost import ModelSpec
from fewer.core.decision import Decision, ExitOutput, Site, View
from fewer.core.learning import CalibrationData
from fewer.core.needs import InputNeeds
from fewer.core.operating_points import OperatingPoints, Point
from fewer.core.phase import CALIBRATION, Phase
from fewer.core.policy import ExitingPolicy
from fewer.methods.exits.pair_features import pair_features, pair_flops, pair_width
from fewer.methods.exits.ridge import LEAST_ROWS, fit_ridge

__all__ = ["Cascade", "CascadePolicy"]

MARGINS = (4.0, 3.0, 2.5, 2.0, 1.5, 1.25, 1.0, 0.75, 0.5, 0.25, 0.0)


@settings
class Cascade:
    """Let documents leave a list that is reranked; heads are fitted to unlabelled pairs."""

    margin: NonNegative = 1.0  # standard deviations of an estimate's error

    def build(self, spec: ModelSpec) -> CascadePolicy:
        """Make the heads, by which nothing leaves until they are calibrated."""
        return CascadePolicy(self, spec)

    def phases(self) -> tuple[Phase, ...]:
        """Calibrate only: no step of training."""
        return (replace(CALIBRATION, reads_once=True),)


class CascadePolicy(ExitingPolicy):
    """A linear head before the first layer and after each but the last, the spread of its error.

    And the margin.
    """

    sites = frozenset({Site.BEFORE, Site.AFTER})
    inputs = InputNeeds(candidates=True, second_text=True)
    weight: Tensor
    bias: Tensor
    spread: Tensor
    margin: Tensor

    def __init__(self, method: Cascade, spec: ModelSpec) -> None:
        super().__init__()
        if spec.labels != 1:
            raise ValueError(
                f"model must have one logit, the relevance, for Cascade; got {spec.labels}. Use a "
                "reranker, or an early exit for a classifier."
            )
        if spec.num_layers < 2:
            raise ValueError(
                f"model must have two layers or more for Cascade; got {spec.num_layers}."
            )
        self.method = method
        self.stages = range(spec.num_layers)  # the layers that have been read
        self.width = pair_width(spec.hidden_size)
        self.register_buffer("weight", torch.zeros(len(self.stages), self.width))
        self.register_buffer("bias", torch.zeros(len(self.stages)))
        self.register_buffer("spread", torch.full((len(self.stages),), math.inf))
        self.register_buffer("margin", torch.tensor(method.margin))
        self._features: list[list[Tensor]] | None = None  # of each stage, while heads are fitted

    def acts_in(self, layer: int, site: Site) -> bool:
        """Return whether there is a head before the layer, or after it."""
        return layer + 1 in self.stages if site is Site.AFTER else layer == 0

    def decide(self, view: View) -> Decision | None:
        """Estimate the scores; those documents leave that fall behind."""
        stage = view.layer + (view.site is Site.AFTER)
        tokens, candidates = view.tokens, current_candidates()
        if self._features is not None:
            self._features[stage].append(pair_features(tokens).cpu())
        texts = tokens.texts
        if candidates is None or candidates.wants_all(len(texts)):
            return None
        scores = (pair_features(tokens) @ self.weight[stage] + self.bias[stage])[:, None]
        measure = torch.cat((scores, self.spread[stage].expand_as(scores)), 1)
        leaves = _falls_behind(measure, self.margin)
        exits = torch.zeros(tokens.grid[0], dtype=torch.bool, device=texts.device)
        exits[texts] = leaves
        flops = torch.zeros(tokens.grid[0], device=texts.device)
        flops[texts] = 2.0 * self.width + pair_flops(tokens)
        output = ExitOutput(stage - 1, texts, scores, exited=leaves, measure=measure)
        return Decision(exits=exits, exit_outputs=(output,), head_flops=flops)

    def calibrate(self, phase: Phase, data: CalibrationData) -> None:
        """Fit each stage's head to the scores of the sample, and measure its error."""
        if not data.first:
            return
        self._features = [[] for _ in self.stages]
        scores = torch.cat([batch.logits[:, 0].float().cpu() for batch in data.batches()])
        collected, self._features = self._features, None
        if len(scores) < LEAST_ROWS:
            raise ValueError(
                f"the sample must have {LEAST_ROWS} pairs or more for Cascade; got {len(scores)}."
            )
        for stage, features in enumerate(collected):
            ridge = fit_ridge(torch.cat(features), scores[:, None])
            self.weight[stage], self.bias[stage] = ridge.weight[0], ridge.bias[0]
            self.spread[stage] = ridge.errors.square().mean().sqrt()

    def operating_points(self) -> OperatingPoints:
        """Return the margin; documents leave sooner by a small one.

        Told from one pass, FLOPs are too high by the comparisons of those documents that are all
        wanted: a pass of its own leaves them out.
        """
        return OperatingPoints(
            (self.margin,), math.inf, MARGINS, _check_margin, match=_falls_behind
        )


def _falls_behind(measure: Float[Tensor, "R 2"], margin: Float[Tensor, ""]) -> Bool[Tensor, "R"]:
    """Return which of a list's documents leave, by their estimates and the estimates' error."""
    candidates = current_candidates()
    scores, spread = measure.unbind(1)
    worst = None if candidates is None else candidates.worst_wanted(scores)
    if worst is None:
        return torch.zeros_like(scores, dtype=torch.bool)
    return scores < worst - margin * spread


def _check_margin(margin: Point) -> None:
    validate(NonNegative, margin, "threshold")
