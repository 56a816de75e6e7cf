"""PoWER-BERT (Goyal et al., ICML 2020, https://arxiv.org/abs/2001.08950).

Each layer keeps a fixed number of tokens: those that receive most attention from the others. How
many is learned once, for all texts. In every layer l of L (from 1), between attention and
feed-forward network:

    Sig_j   =  1 / H * sum over heads h and queries i other than j of A[h, i, j]
    soft:      y_j  <-  r_l[rank of j by Sig] * y_j,   r_l in [0, 1]^N, learned
    L       =  L_task  +  lambda * sum over l of l * mass_l,   mass_l = sum over k of |r_l[k]|
    hard:      keep the c_l tokens of highest Sig,   c_l = floor(mass_l), never more than c_(l-1)

The soft phase trains the model and r; then the retention configuration c is read off, and the model
is trained again with tokens really gone.

What differs from the authors' code, and why:

- Theirs pads every text to N tokens, and c counts of N. Here c is a share of the text by default: a
  text of n tokens keeps floor(c_l * n / N), and its rank k is scaled by r_l[floor(k * N / n)]. So
  short texts are pruned too, and long ones not to a stump. `counts="absolute"` is the published
  rule, min(n, c_l), without the padding, which always went first; a rank of N or more is scaled by
  the last number.
- [CLS] ranks first and is never scaled, as it always stays in their hard phase; so do other
  protected tokens. In their soft phase it may be scaled as any other.
- Padding rows neither vote nor rank. In theirs they do, and drive the last ranks' r to 0.
- r is not clipped after each step. A number outside [0, 1] acts as the bound, where only the
  penalty moves it, back to the inside.
- `target` asks for a share of the FLOPs instead of guessing lambda: after the soft phase all masses
  are divided by one number, found by bisection on training texts, and are not rounded to whole
  numbers. The shape over layers is the learned one.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Annotated, Literal

import torch
from annotated_types import MinLen
from pydantic import Strict
from torch import Tensor, nn

from fewer._validation.settings import settings
from fewer._validation.types import Count, Fraction, NonNegative, Pair, Triple
from fewer.core.cost import ModelSpec
from fewer.core.decision import Decision, Site, View
from fewer.core.learning import RATIO_MISSED, CalibrationData, TrainingBatch
from fewer.core.needs import Needs
from fewer.core.packed import Packed
from fewer.core.phase import Phase
from fewer.core.policy import Policy
from fewer.methods.pruning.token_counts import TokenCounts, whole_below
from fewer.methods.select import rank_in_text

__all__ = ["PoWERBERT", "PoWERBERTPolicy"]

SOFT = "scale_state"  # the way to apply decisions under which states are scaled by rank
Counts = Annotated[tuple[Count, ...], Strict(False), MinLen(1)]


@settings
class PoWERBERT:
    """Keep a fixed, learned number of tokens in each layer: those that others attend to most."""

    retention: Counts | None = None  # c_1 ... c_L, tokens of `reference_length`; None: learned
    target: Fraction | None = None  # share of the dense FLOPs to keep, in (0, 1)
    reference_length: Count = 64  # N: the length that c refers to, and the ranks of a layer
    counts: Literal["relative", "absolute"] = "relative"  # to the text's length, or as they are
    strength: NonNegative = 2e-4  # lambda
    epochs: Pair = (3.0, 3.0)  # of the soft and of the hard phase
    # of the model and of r in the soft phase, of the model in the hard one
    learning_rates: Triple = (3e-5, 5e-4, 3e-5)

    def __post_init__(self) -> None:
        """Refuse a retention that grows, that exceeds N, or that comes with a target."""
        retention = self.retention
        if retention is None:
            return
        if self.target is not None:
            raise ValueError(
                f"target must be absent with a retention; got target={self.target}. Leave "
                "retention out to learn it, or target."
            )
        if retention[0] > self.reference_length:
            raise ValueError(
                f"retention must be at most reference_length={self.reference_length}; got "
                f"{retention[0]}. Count the tokens of a text of that length."
            )
        if any(after > before for before, after in pairwise(retention)):
            raise ValueError(
                f"retention must not grow from layer to layer; got {retention}. A pruned token "
                "does not come back."
            )

    def build(self, spec: ModelSpec) -> PoWERBERTPolicy:
        """Make the retention parameters and counts of each layer."""
        return PoWERBERTPolicy(self, spec)

    def phases(self) -> tuple[Phase, ...]:
        """Soft: model and r. Hard: the model alone, tokens gone; this only, with a retention."""
        soft, hard = self.epochs
        soft_rate, retention_rate, hard_rate = self.learning_rates
        search = Phase(
            "soft",
            SOFT,
            "all",
            soft,
            soft_rate,
            retention_rate,
            regularise=True,
            calibrate=True,
        )
        retrain = Phase("hard", "compact", "model", hard, hard_rate)
        return (search, retrain) if self.retention is None else (retrain,)


class PoWERBERTPolicy(Policy):
    """The retention parameters r, `scale[l, k]`, and the configuration c, `retention[l]`.

    Until the soft phase is over, or a retention is given, no token is pruned.
    """

    sites = frozenset({Site.MIDDLE})

    def __init__(self, method: PoWERBERT, spec: ModelSpec) -> None:
        super().__init__()
        retention, layers = method.retention, spec.num_layers
        if retention is not None and len(retention) != layers:
            raise ValueError(
                f"retention must have a number for each of the {layers} layers; got "
                f"{len(retention)}. Give one per layer."
            )
        self.method = method
        self.retention: Tensor
        full = (method.reference_length,) * layers
        self.register_buffer("retention", torch.tensor(retention or full, dtype=torch.float32))
        if retention is None:
            self.scale = nn.Parameter(torch.ones(layers, method.reference_length))

    def needs(self, layer: int, phase: Phase) -> Needs:
        """Attention received from other tokens."""
        return Needs(from_others=True)

    def begin(self, tokens: Packed, phase: Phase) -> TokenCounts | None:
        """Plan how many tokens of each text stay, where tokens are not scaled."""
        if phase.apply == SOFT:
            return None
        return TokenCounts.plan(tokens, self.retention, self._counts_of)

    def decide(self, view: View) -> Decision | None:
        """Scale states by rank in the soft phase, else keep the highest ranks."""
        significance, counts = view.evidence.from_others, view.state
        assert significance is not None
        if counts is not None:
            plan: TokenCounts = counts
            return plan.decide(view, significance)
        if self.method.retention is not None:  # nothing to learn
            return None
        rank = rank_in_text(significance, view.tokens)
        if self.method.counts == "relative":
            length = view.lengths.long()[view.tokens.sequence]
            rank = rank * self.method.reference_length // length
        rank = rank.clamp_max(self.method.reference_length - 1)
        return Decision(gate=self.scale[view.layer].clamp(0, 1)[rank])

    def loss(self, batch: TrainingBatch) -> Tensor:
        """Weigh the mass of each layer by lambda times its number, from 1."""
        mass = self.scale.abs().sum(1)
        layers = torch.arange(1, len(mass) + 1, device=mass.device)
        return self.method.strength * (layers * mass).sum()

    def calibrate(self, phase: Phase, data: CalibrationData) -> None:
        """Read the retention configuration off the masses, after the soft phase."""
        if data.first or self.method.retention is not None:
            return
        masses = [max(1.0, mass) for mass in self.scale.detach().clamp(0, 1).sum(1).tolist()]
        target, reference = self.method.target, self.method.reference_length
        if target is None:
            self._retain([whole_below(mass) for mass in masses])
            return

        def divide(divisor: float) -> None:
            self._retain([min(reference, max(1.0, mass / divisor)) for mass in masses])

        # from all tokens in each layer to one
        gap = data.bisect(target, divide, 1.0 / reference, max(1.01, *masses), 1.0)
        if abs(gap) > RATIO_MISSED:
            warnings.warn(
                f"PoWERBERT keeps {target + gap:.3f} of the FLOPs, not the target of {target}: the "
                "first attention and the protected tokens are always computed, and counts of "
                "tokens are whole numbers",
                stacklevel=2,
            )

    def _retain(self, counts: Sequence[float]) -> None:
        """Set the configuration, with the least count so far in each layer."""
        self.retention.copy_(self.retention.new_tensor(list(accumulate(counts, min))))

    def _counts_of(self, retention: Sequence[float], length: int) -> list[int]:
        """Return how many tokens a text of this length keeps in each layer."""
        is_relative = self.method.counts == "relative"
        scale = length / self.method.reference_length if is_relative else 1.0
        return [min(length, max(1, whole_below(count * scale))) for count in retention]
