"""LTP: Learned Token Pruning (Kim et al., KDD 2022, https://arxiv.org/abs/2107.00910).

In every layer but the first, between attention and feed-forward network, a token is pruned when the
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
- Where tokens are answers, as in question answering, a pruned token is no answer, and log g of its
  gates enters its start and end logits in the soft phase, so that pruning an answer costs. With
  `restore` it may be the answer with its last state, which is what a token whose gate is 0 keeps in
  the soft phase. In the released code pruned tokens go on through the layers without attending, so
  their answers are not those of a model that drops them.
- `ranking` adds the ranking distillation of ToP to the soft phase, by this weight: the scores of
  the early layers learn to rank tokens as the last layer of the model before the phase does.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from fewer._validation.settings import settings
from fewer._validation.types import Count, Fraction, NonNegative, Pair, Positive, Triple
from fewer.core.cost import ModelSpec
from fewer.core.decision import Decision, Site, View
from fewer.core.learning import CalibrationData, TrainingBatch, warn_if_missed
from fewer.core.needs import Needs
from fewer.core.phase import Phase
from fewer.core.policy import Policy
from fewer.methods.pruning.ranking import early_layers, ranking_loss

__all__ = ["LTP", "LTPPolicy"]

# The released code's floor: a score below it is that of a token without attention.
FLOOR = 1e-5


@settings
class LTP:
    """Learned Token Pruning: drop tokens whose received attention is below a learned threshold."""

    final_threshold: Fraction = 0.01  # where the last layer's threshold starts, times (L - 1) / L
    temperature: Positive = 2e-4  # T of the gate; small against a mean score, which is 1 / n
    strength: NonNegative | None = None  # lambda; None: 0.1, or 1.0 with a target
    target: Fraction | None = None  # share of the dense FLOPs to keep, in (0, 1)
    soft_rule: Literal["attention", "output"] = "attention"
    reference_length: Count | None = None  # None: divide by living queries; else by this number
    ranking: NonNegative = 0.0  # weight of the ranking distillation of ToP
    restore: bool = False  # whether a pruned token may begin or end an answer, at its last state
    epochs: Pair = (1.0, 0.5)  # of the soft and of the hard phase
    # of the model and of the thresholds in the soft phase, of the model in the hard one
    learning_rates: Triple = (2e-5, 1e-4, 5e-6)

    def __post_init__(self) -> None:
        """Refuse a target whose share is undefined."""
        if self.target is not None and self.soft_rule == "output":
            raise ValueError(
                "soft_rule must be 'attention' with a target; got 'output', under which no token "
                "fades. Leave target out, or soft_rule."
            )

    @property
    def weight(self) -> float:
        """Lambda, as given or by default."""
        if self.strength is not None:
            return self.strength
        return 0.1 if self.target is None else 1.0

    def build(self, spec: ModelSpec) -> LTPPolicy:
        """Make the thresholds, one for each layer but the first."""
        return LTPPolicy(self, spec)

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
                teacher=self.ranking > 0,
            ),
            Phase("hard", "compact", "model", hard, hard_rate),
        )


class LTPPolicy(Policy):
    """The thresholds of LTP; `threshold[l - 1]` is theta of layer l, counted from 0."""

    sites = frozenset({Site.MIDDLE})

    def __init__(self, method: LTP, spec: ModelSpec) -> None:
        super().__init__()
        if spec.num_layers < 2:
            raise ValueError(
                "the model must have two layers or more, because LTP prunes from the second on; "
                f"got {spec.num_layers}."
            )
        self.method = method
        self.spec = spec
        layers = torch.arange(1, spec.num_layers, dtype=torch.float32)
        self.threshold = nn.Parameter(method.final_threshold * layers / spec.num_layers)

    def needs(self, layer: int, phase: Phase) -> Needs:
        """Return the attention received in every layer but the first.

        Its threshold is 0 in the paper. Where a teacher ranks, the trace holds it too.
        """
        ranks = phase.teacher and self.method.ranking > 0
        taught = (*early_layers(self.spec.num_layers), self.spec.num_layers - 1)
        return Needs(received=layer > 0, received_in_trace=ranks and layer in taught)

    def acts_in(self, layer: int, site: Site) -> bool:
        """Return whether the layer has a threshold."""
        return layer > 0

    def decide(self, view: View) -> Decision | None:
        """Compare the attention received with the layer's threshold."""
        received = view.evidence.received
        if view.layer == 0 or received is None:
            return None
        margin = self._score(received, view) - self._threshold(view.layer)
        gate = torch.sigmoid(margin / self.method.temperature) if view.soft else None
        return Decision.keep(margin >= 0, gate, restores=self.method.restore)

    def loss(self, batch: TrainingBatch) -> Tensor:
        """Weigh the sum over layers of the mean gate, or the distance to the target, by lambda.

        The ranking distillation is added where the phase has a teacher.
        """
        trace, method = batch.trace, self.method
        if method.target is not None:
            penalty = (self.spec.flops_ratio(trace) - method.target).abs()
        else:
            gates = [layer.gate.mean() for layer in trace.layers if layer.gate is not None]
            penalty = torch.stack(gates).sum()
        loss = method.weight * penalty
        if batch.teacher is None or not method.ranking:
            return loss
        return loss + method.ranking * ranking_loss(trace, batch.teacher.trace)

    def calibrate(self, phase: Phase, data: CalibrationData) -> None:
        """Bisect a common factor on all thresholds until the FLOPs ratio is the target, +-0.002."""
        if self.method.target is None:
            return
        learned = self.threshold.detach().clamp_min(FLOOR)

        def scale(factor: float) -> None:
            with torch.no_grad():
                self.threshold.copy_(learned * factor)

        # from thresholds at the floor (next to no pruning) to all at 1 (only protected tokens stay)
        low, high = FLOOR / float(learned.max()), 1.0 / float(learned.min())
        gap = data.bisect(self.method.target, scale, low, high, 1.0)
        warn_if_missed(
            "LTP",
            self.method.target,
            gap,
            "the first layer and the protected tokens always stay, and tokens of equal score "
            "are pruned together",
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
        queries = view.tokens.count(view.tokens.participation) / self.method.reference_length
        return received * queries[view.tokens.sequence]
