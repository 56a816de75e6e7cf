"""LTP: Learned Token Pruning (Kim et al., KDD 2022, https://arxiv.org/abs/2107.00910).

In every layer but the first, between attention and feed-forward network, a token leaves when the
attention it received falls below a threshold that is learned for the layer:

    s_j  =  1 / (H n)  *  sum over heads h and queries i of A[h, i, j]
    keep j  if and only if  s_j >= theta_l

While training, the comparison is a gate, M_j = sigmoid((s_j - theta_l) / T), and the loss gains
lambda * (sum over layers of the mean gate). Then the thresholds are fixed, tokens really leave, and
the model alone is tuned.

What differs from the authors' code, and why:

- n counts the living queries of the text. The released code divides by the padded length, so a
  threshold learned at one padding is wrong at another; `reference_length=128` gives its scores at
  its own padding, whatever ours is.
- `soft_rule="attention"` (default): a gate g adds log g to the token's attention scores, so that
  the soft model tends to the hard one as T falls. `soft_rule="output"` is the published rule, which
  scales the layer's output and leaves keys alone; its limit is another function.
- The hard phase is half an epoch at 5e-6 by default, a tenth of the authors' five epochs, at the
  lowest of their rates (5e-6 to 2e-5). Their number is `epochs=(1, 5)`; on our slices an epoch at
  2e-5 lost more than it mended, and five were not tried.
- [CLS] never leaves. The regulariser averages over tokens, not over padding.
- `target` asks for a share of the FLOPs instead of guessing lambda: the penalty becomes lambda *
  |share - target|, and a common factor on the thresholds is fitted by bisection, so that the share
  is met on the training texts.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fewer.core.cost import ModelSpec
from fewer.core.decision import Decision, Site, View
from fewer.core.needs import Needs
from fewer.core.policy import TARGET_MISSED, CalibrationData, Phase, Policy, TrainingBatch

__all__ = ["LTP", "LTPPolicy"]

# The released code's floor: below it a score is that of a token nobody reads.
FLOOR = 1e-5


@dataclass(frozen=True, kw_only=True)
class LTP:
    """Learned Token Pruning: drop tokens whose received attention is below a learned threshold."""

    final_threshold: float = 0.01  # where the last layer's threshold starts, times (L - 1) / L
    temperature: float = 2e-4  # T of the gate; small against a mean score, which is 1 / n
    strength: float | None = None  # lambda; None: 0.1, or 1.0 with a target
    target: float | None = None  # share of the dense FLOPs to keep, in (0, 1)
    soft_rule: Literal["attention", "output"] = "attention"
    reference_length: int | None = None  # None: divide by living queries; else by this number
    epochs: tuple[float, float] = (1.0, 0.5)  # of the soft and of the hard phase
    # of the model and of the thresholds in the soft phase, of the model in the hard one
    learning_rates: tuple[float, float, float] = (2e-5, 1e-4, 5e-6)

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        object.__setattr__(self, "epochs", tuple(self.epochs))  # JSON and YAML hold lists
        object.__setattr__(self, "learning_rates", tuple(self.learning_rates))
        if len(self.epochs) != 2 or len(self.learning_rates) != 3:
            raise ValueError(
                f"epochs is {self.epochs}, learning_rates {self.learning_rates}; wanted (soft, "
                "hard) and (model in the soft phase, thresholds, model in the hard phase)"
            )
        if not 0 < self.final_threshold < 1:
            raise ValueError(
                f"final_threshold is {self.final_threshold}, wanted a value in (0, 1); the "
                "paper uses 0.01"
            )
        if self.temperature <= 0:
            raise ValueError(
                f"temperature is {self.temperature}, wanted a positive value; the paper uses "
                "1e-4 to 2e-3"
            )
        if self.strength is not None and self.strength < 0:
            raise ValueError(
                f"strength (lambda) is {self.strength}, wanted 0 or more; the paper uses 0.01 "
                "to 0.2"
            )
        if self.target is not None and not 0 < self.target < 1:
            raise ValueError(
                f"target is {self.target}, wanted the share of FLOPs to keep, in (0, 1), or None"
            )
        if self.soft_rule not in ("attention", "output"):
            raise ValueError(f"soft_rule is {self.soft_rule!r}, wanted 'attention' or 'output'")
        if self.target is not None and self.soft_rule == "output":
            raise ValueError(
                "target needs soft_rule='attention': under 'output' no token fades, so no "
                "share is defined"
            )
        if self.reference_length is not None and self.reference_length < 1:
            raise ValueError(
                f"reference_length is {self.reference_length}, wanted a length in tokens, or None"
            )

    @property
    def weight(self) -> float:
        """Lambda, as given or by default."""
        if self.strength is not None:
            return self.strength
        return 0.1 if self.target is None else 1.0

    def build(self, shape: ModelSpec) -> LTPPolicy:
        """Make the thresholds, one for each layer but the first."""
        return LTPPolicy(self, shape)

    def phases(self) -> tuple[Phase, ...]:
        """Soft: model and thresholds with gates. Hard: the model alone, tokens gone."""
        soft, hard = self.epochs
        soft_rate, policy_rate, hard_rate = self.learning_rates
        rule = {"attention": "soften", "output": "soften_output"}[self.soft_rule]
        return (
            Phase(
                "soft",
                rule,
                "all",
                soft,
                soft_rate,
                policy_rate,
                regularise=True,
                calibrate=self.target is not None,
            ),
            Phase("hard", "compact", "model", hard, hard_rate),
        )


class LTPPolicy(Policy):
    """The thresholds of LTP; `threshold[l - 1]` is theta of layer l, counted from 0."""

    sites = frozenset({Site.MIDDLE})

    def __init__(self, method: LTP, shape: ModelSpec) -> None:
        super().__init__()
        if shape.num_layers < 2:
            raise ValueError(
                f"LTP prunes from the second layer on; this model has {shape.num_layers}"
            )
        self.method = method
        self.shape = shape
        layers = torch.arange(1, shape.num_layers, dtype=torch.float32)
        self.threshold = nn.Parameter(method.final_threshold * layers / shape.num_layers)

    def needs(self, layer: int) -> Needs:
        """Attention received in every layer but the first, whose threshold is 0 in the paper."""
        return Needs(received=layer > 0)

    def decide(self, view: View) -> Decision | None:
        """Compare the attention received with the layer's threshold."""
        received = view.tokens.received
        if view.layer == 0 or received is None:
            return None
        score, theta = self._score(received, view), self._threshold(view.layer)
        if not view.gated:
            return Decision.keep(score >= theta)
        margin = score - theta
        return Decision.keep(margin >= 0, torch.sigmoid(margin / self.method.temperature))

    def loss(self, lesson: TrainingBatch) -> Tensor:
        """Weigh the sum over layers of the mean gate, or the distance to the target, by lambda."""
        trace = lesson.trace
        if self.method.target is not None:
            return self.method.weight * (self.shape.share(trace) - self.method.target).abs()
        gates = [layer.gate.mean() for layer in trace.layers if layer.gate is not None]
        return self.method.weight * torch.stack(gates).sum()

    def calibrate(self, phase: Phase, rehearsal: CalibrationData) -> None:
        """Bisect a common factor on all thresholds until the share is the target, +-0.002."""
        if self.method.target is None:
            return
        learned = self.threshold.detach().clamp_min(FLOOR)

        def turn(factor: float) -> None:
            with torch.no_grad():
                self.threshold.copy_(learned * factor)

        # from thresholds at the floor (next to nobody leaves) to all at 1 (only the protected stay)
        low, high = FLOOR / float(learned.max()), 1.0 / float(learned.min())
        gap = rehearsal.meet(self.method.target, turn, low, high, 1.0)
        if abs(gap) > TARGET_MISSED:
            warnings.warn(
                f"LTP keeps {self.method.target + gap:.3f} of the FLOPs, not the target of "
                f"{self.method.target}: the first layer and the protected tokens always stay, and "
                "tokens of equal score leave together",
                stacklevel=2,
            )

    def _threshold(self, layer: int) -> Tensor:
        """Return theta of a layer, its gradient in units of `final_threshold`.

        A share changes by 1 while theta changes by about 0.01, so its plain gradient is a hundred
        times the model's, and clipping the norm of all would leave the model next to none. Adam
        takes the same steps for either.
        """
        theta = self.threshold[layer - 1]
        if not torch.is_grad_enabled():
            return theta.clamp_min(FLOOR)
        fixed = theta.detach()
        return (fixed + (theta - fixed) * self.method.final_threshold).clamp_min(FLOOR)

    def _score(self, received: Tensor, view: View) -> Tensor:
        if self.method.reference_length is None:
            return received
        queries = view.tokens.count(view.tokens.presence) / self.method.reference_length
        return received * queries[view.tokens.sequence]
