"""Transkimmer (Guan et al., ACL 2022, https://arxiv.org/abs/2205.07324).

Before each layer a small network looks at the state of every token, and says whether the layer
reads it. A token that is skimmed goes to the end of the model with the state that it has:

    [z_skim, z_keep]  =  W2 gelu(norm(W1 norm(h) + b1)) + b2
    m                 =  softmax((z + g) / tau)_keep, rounded to 0 or 1; g is Gumbel noise
    L                 =  L_task  +  lambda * mean over layers of the share of tokens still read

While training, m is rounded forward and passes its gradient on as if it were not (straight
through). At inference there is no noise: a token stays while its probability of being kept, the
softmax of z, is no lower than a threshold, 0.5. b2 starts at (-5, 5), so that all are kept.

What differs from the authors' code, and why:

- A skimmed token is no key. Their mask is multiplied with the attention after the softmax, so a row
  no longer sums to 1 in training, but does where tokens really leave; they call it a bug (issue 3),
  and their numbers were not redone. Here log(m) is added to the scores before the softmax.
- m is 1e-10, not 0, for a skimmed token while training, so that a gradient reaches its network. The
  authors' mended branch adds 1e-6 to every key; at a score of 10 above the others, that is seen.
- There is no noise at inference; theirs draws there too, so answers are random.
- The share of tokens counts real ones; theirs counts padding on one side.
- The networks learn at a rate of their own, 1e-3, where theirs have the model's.
- `target` asks for a share of the FLOPs, networks included: the loss becomes lambda * |share -
  target|, and the threshold is fitted by bisection after training.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from fewer._validation.settings import settings
from fewer._validation.types import Fraction, NonNegative, Pair, Positive, Proportion
from fewer.core.cost import ModelSpec, linear_flops
from fewer.core.decision import Decision, Site, View
from fewer.core.learning import CalibrationData, TrainingBatch
from fewer.core.operating_points import OperatingPoints
from fewer.core.phase import Phase
from fewer.core.policy import Policy
from fewer.methods.pruning.keep_threshold import fit_threshold, keep_points

__all__ = ["Transkimmer", "TranskimmerPolicy"]

KEEP = 1  # index of z_keep
BIAS = (-5.0, 5.0)  # b2 at the start
# the gate of a skimmed token in training; where its score is 16 above the others, it weighs 1e-3
SKIMMED = 1e-10


@settings
class Transkimmer:
    """Skim tokens before each layer, as a network on their states decides."""

    strength: NonNegative | None = None  # lambda; None: 0.5, or 1.0 with a target
    target: Fraction | None = None  # share of the dense FLOPs to keep, in (0, 1)
    threshold: Proportion = 0.5  # a token stays while its probability is no lower
    temperature: Positive = 1.0  # tau of the Gumbel softmax
    epochs: NonNegative = 3.0
    learning_rates: Pair = (2e-5, 1e-3)  # of the model, of the networks

    @property
    def weight(self) -> float:
        """Lambda, as given or by default."""
        if self.strength is not None:
            return self.strength
        return 0.5 if self.target is None else 1.0

    def build(self, spec: ModelSpec) -> TranskimmerPolicy:
        """Make a network for each layer."""
        return TranskimmerPolicy(self, spec)

    def phases(self) -> tuple[Phase, ...]:
        """Train the model and the networks at once."""
        model, networks = self.learning_rates
        return (
            Phase(
                "skim",
                "soften",
                "all",
                self.epochs,
                model,
                networks,
                regularise=True,
                calibrate=self.target is not None,
            ),
        )


class SkimPredictor(nn.Sequential):
    """The network before a layer: two linear maps, each after a norm; logits of skim and keep."""

    def __init__(self, width: int) -> None:
        last = nn.Linear(width, 2)
        nn.init.normal_(last.weight, std=0.02)
        with torch.no_grad():
            last.bias.copy_(torch.tensor(BIAS))
        super().__init__(
            nn.LayerNorm(width), nn.Linear(width, width), nn.LayerNorm(width), nn.GELU(), last
        )
        self.flops = linear_flops(self)  # of a token


class TranskimmerPolicy(Policy):
    """A network per layer, and the threshold."""

    sites = frozenset({Site.BEFORE})
    threshold: Tensor

    def __init__(self, method: Transkimmer, spec: ModelSpec) -> None:
        super().__init__()
        self.method = method
        self.spec = spec
        self.predictors = nn.ModuleList(
            SkimPredictor(spec.hidden_size) for _ in range(spec.num_layers)
        )
        self.register_buffer("threshold", torch.tensor(method.threshold))

    def decide(self, view: View) -> Decision:
        """Keep the tokens of a high probability; draw in the phase that trains the networks."""
        tokens = view.tokens
        predictor = cast("SkimPredictor", self.predictors[view.layer])
        # in the dtype of the networks, which stay in fp32 on a model in bf16
        logits = predictor(tokens.hidden.to(next(predictor.parameters()).dtype)).float()
        flops = predictor.flops * tokens.count(tokens.gate)
        if not (view.soft and view.phase.regularise):
            keep = logits.softmax(-1)[:, KEEP] >= self.threshold
            gate = keep.float().clamp_min(SKIMMED) if view.soft else None
            return Decision.keep(keep, gate, head_flops=flops)
        soft = nn.functional.gumbel_softmax(logits, tau=self.method.temperature)[:, KEEP]
        hard = (soft >= 0.5).float().clamp_min(SKIMMED)
        return Decision(gate=hard + (soft - soft.detach()), head_flops=flops)

    def loss(self, batch: TrainingBatch) -> Tensor:
        """Weigh by lambda the mean share of tokens that layers read, or the distance to target."""
        trace, target = batch.trace, self.method.target
        if target is not None:
            return self.method.weight * (self.spec.flops_ratio(trace) - target).abs()
        assert trace.lengths is not None  # the loop notes them
        counts = torch.stack([layer.keys.sum() for layer in trace.layers])
        return self.method.weight * (counts / trace.lengths.sum()).mean()

    def calibrate(self, phase: Phase, data: CalibrationData) -> None:
        """Bisect the threshold after training until the FLOPs ratio is the target, +-0.002."""
        target = self.method.target
        if target is None or data.first:
            return
        fit_threshold(self.threshold, data, target, "Transkimmer")

    def operating_points(self) -> OperatingPoints:
        """Return the threshold; 0 keeps every token."""
        return keep_points(self.threshold)
