"""SpAtten (Wang et al., HPCA 2021, https://arxiv.org/abs/2012.09852).

The attention that a token received tells how important it is, and so does the magnitude of what an
attention head returned. Both are summed over the layers so far:

    s_j  +=  sum over heads h and queries i of A[h, i, j]
    t_h  +=  sum over tokens i and the head's columns c of |E[h, i, c]|

E is the head's output before the output projection. Layer l computes the most important of both,
n (1 - p_l) of a text's n tokens and H (1 - q_l) of the H heads. What is pruned stays pruned. The
first 15 percent of the layers prune no token and the first 30 percent no head; from there p and q
grow on a line. Nothing has to be trained; the fine-tune with pruning in place is the phase `hard`.

We know the paper's formulas by a third party's notes of them. The authors released a demonstration,
a simulator and the hardware, but no pruning of BERT. What differs, and why:

- Shares are of the text's length as it came, and counts are rounded up, so that a text of one token
  keeps it. [CLS] and other protected tokens never leave.
- n counts the tokens of the text, not padding, and each text has its own scores, also for heads.
- `head_ratios` are 0 by default. Each text has heads of its own, so only the pairs of a pruned head
  are saved, not its projections, and no kernel of a GPU or CPU is the faster for it.
- Local value pruning (for each query, values of low probability are left out of the weighted sum)
  and progressive quantisation (low bits are fetched only for flat attention) are left out. Both
  save memory traffic of their accelerator; in software each query would gather rows of its own,
  which costs more than the product that it saves.
- `target` asks for a share of the FLOPs: a common factor on all ratios is fitted by bisection.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Strict
from torch import Tensor

from fewer._validation.settings import settings
from fewer._validation.types import Fraction, NonNegative, Probability
from fewer.core.cost import ModelSpec
from fewer.core.decision import Decision, Site, View
from fewer.core.learning import CalibrationData, warn_if_missed
from fewer.core.needs import Needs
from fewer.core.operating_points import OperatingPoints
from fewer.core.packed import Packed
from fewer.core.phase import Phase
from fewer.core.policy import Policy
from fewer.methods.pruning.factor_points import factor_points
from fewer.methods.select import keep_top

__all__ = ["SpAtten", "SpAttenPolicy"]

DENSE_PERCENT = {"tokens": 15, "heads": 30}  # of the layers, the first, prune none
FACTORS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
LARGEST = 100.0  # factor, at which every ratio is 1
Ratios = Annotated[tuple[Probability, Probability], Strict(False)]


@settings
class SpAtten:
    """Prune the tokens and heads that were least important in all layers so far."""

    # pruned share of a text's tokens: p in the first layer that prunes, and in the last
    token_ratios: Ratios = (0.1, 0.6)
    head_ratios: Ratios = (0.0, 0.0)  # pruned share of the heads: q, likewise
    target: Fraction | None = None  # share of the dense FLOPs to keep, in (0, 1)
    epochs: NonNegative = 1.0
    learning_rate: NonNegative = 2e-5

    def __post_init__(self) -> None:
        """Refuse ratios that fall, since what is pruned does not come back."""
        for name in ("token_ratios", "head_ratios"):
            first, last = getattr(self, name)
            if first > last:
                raise ValueError(
                    f"{name} must not fall from the first layer to the last; got ({first}, {last})."
                    " Give the smaller one first."
                )
        if self.target is not None and not any(self.token_ratios):
            raise ValueError(
                f"token_ratios must not be 0 with a target; got {self.token_ratios}. Leave target "
                "out, or give ratios: their size does not matter then, only their slope."
            )

    def build(self, spec: ModelSpec) -> SpAttenPolicy:
        """Make the schedule for a model."""
        return SpAttenPolicy(self, spec)

    def phases(self) -> tuple[Phase, ...]:
        """Tune the model with tokens and heads pruned."""
        calibrates = self.target is not None
        return (
            Phase(
                "hard",
                "compact",
                "model",
                self.epochs,
                self.learning_rate,
                calibrate=calibrates,
            ),
        )


class SpAttenPolicy(Policy):
    """The schedules of SpAtten, and the factor on all of their ratios."""

    sites = frozenset({Site.AFTER})
    factor: Tensor

    def __init__(self, method: SpAtten, spec: ModelSpec) -> None:
        super().__init__()
        if spec.num_layers < 2:
            raise ValueError(
                "the model must have two layers or more, because SpAtten prunes from the second "
                f"on; got {spec.num_layers}."
            )
        self.method = method
        self.heads = spec.heads
        self.token_ratios = schedule(*method.token_ratios, spec.num_layers, "tokens")
        self.head_ratios = schedule(*method.head_ratios, spec.num_layers, "heads")
        self.register_buffer("factor", torch.ones(()))
        self._on_host: tuple[Tensor, int, float] | None = None  # the buffer, its version, its value

    def needs(self, layer: int, phase: Phase) -> Needs:
        """Return what later layers prune by: attention received, outputs of heads."""
        return Needs(
            received=any(self.token_ratios[layer + 1 :]),
            head_context=any(self.head_ratios[layer + 1 :]),
        )

    def begin(self, tokens: Packed, phase: Phase) -> float:
        """Return the factor, without asking the device for it in every pass."""
        factor, cached = self.factor, self._on_host
        version = -1 if factor.is_inference() else factor._version
        if cached is None or cached[0] is not factor or cached[1] != version or version < 0:
            cached = self._on_host = (factor, version, float(factor))
        return cached[2]

    def decide(self, view: View) -> Decision | None:
        """Add to the scores; keep the highest as many as the next layer computes."""
        following = view.layer + 1
        decisions = []
        if any(self.token_ratios[following:]):
            decisions.append(self._prune_tokens(view, self.token_ratios[following]))
        if any(self.head_ratios[following:]):
            decisions.append(self._prune_heads(view, self.head_ratios[following]))
        if not decisions:
            return None
        return decisions[0] if len(decisions) == 1 else decisions[0] & decisions[1]

    def calibrate(self, phase: Phase, data: CalibrationData) -> None:
        """Bisect the factor until the FLOPs ratio is the target, +-0.002."""
        target = self.method.target
        if target is None:
            return
        gap = data.bisect(target, self.factor.fill_, 1 / LARGEST, LARGEST, 1.0)
        warn_if_missed(
            "SpAtten",
            target,
            gap,
            "the first layers and the protected tokens always stay",
        )

    def operating_points(self) -> OperatingPoints:
        """Return the factor; 0 prunes nothing."""
        return factor_points(self.factor, FACTORS)

    def _prune_tokens(self, view: View, ratio: float) -> Decision:
        """Add the attention received to each token's score, and keep the highest."""
        received, total = view.evidence.received, view.carried("tokens")
        assert received is not None
        queries = view.trace.layers[-1].queries * self._remaining_heads(view.tokens)
        received = received * queries[view.tokens.sequence]  # the sum, not the mean
        total = received if total is None else total + received
        carry = {"tokens": total}
        if not ratio:
            return Decision(carry=carry)
        ratio = ratio * view.state
        keep = keep_top(total, view.tokens, count_kept(view.lengths, ratio))
        return Decision.keep(keep, carry=carry, count=_count_on_host(view, ratio))

    def _prune_heads(self, view: View, ratio: float) -> Decision:
        """Add the magnitude of its output to each head's score, and keep the highest.

        The scores of a text are carried by all of its tokens, since the first is never pruned.
        """
        tokens, context = view.tokens, view.evidence.head_context
        assert context is not None
        magnitude = context.float().abs().sum(2)  # (T, H)
        if tokens.participation is not None:
            magnitude = magnitude * tokens.participation.unsqueeze(1)
        total = magnitude.new_zeros(tokens.grid[0], self.heads)
        total = total.index_add(0, tokens.sequence, magnitude)
        before = view.carried("heads")
        if before is not None:
            first = tokens.cu[:-1].clamp_max(len(tokens.slot) - 1)
            total = total + before[first]
        carry = {"heads": total[tokens.sequence]}
        if not ratio:
            return Decision(carry=carry)
        scores = total if tokens.heads is None else total.masked_fill(~tokens.heads, -torch.inf)
        order = scores.argsort(dim=1, descending=True, stable=True)
        count = count_on_host((self.heads,), ratio * view.state)
        keep = torch.zeros_like(order, dtype=torch.bool).scatter(1, order[:, :count], True)
        return Decision(heads=keep, carry=carry)

    def _remaining_heads(self, tokens: Packed) -> Float[Tensor, "B"] | float:
        return float(self.heads) if tokens.heads is None else tokens.heads.float().sum(1)


def count_kept(total: Float[Tensor, "B"], ratio: float) -> Float[Tensor, "B"]:
    """Return how many of `total` stay where a share of `ratio` is pruned: at least 1; in fp32."""
    return (total.float() * (1.0 - min(1.0, ratio))).ceil().clamp_min(1.0)


def count_on_host(totals: Sequence[int], ratio: float) -> int:
    """Add up what `count_kept` returns for these, in the same precision, without a tensor."""
    share = np.float32(1.0 - min(1.0, ratio))
    return int(np.maximum(np.ceil(np.asarray(totals, dtype=np.float32) * share), 1.0).sum())


def _count_on_host(view: View, ratio: float) -> int | None:
    """Return the tokens of the batch that stay, where the host knows it."""
    if view.scope or not view.host_lengths or not view.tokens.roles.protects_first_only:
        return None  # another part of a stack may prune, or more than [CLS] may be protected
    return count_on_host(view.host_lengths, ratio)


def schedule(first: float, last: float, layers: int, kind: str) -> tuple[float, ...]:
    """Return the pruned share of each layer: 0 in the dense ones, from there on a line.

    The mean of the line is (first + last) / 2; a single layer that prunes has the mean.
    """
    dense = max(1, math.ceil(DENSE_PERCENT[kind] * layers / 100))
    steps = layers - dense
    if steps == 1:
        return (*(0.0,) * dense, (first + last) / 2)
    line = (first + (last - first) * step / (steps - 1) for step in range(steps))
    return (*(0.0,) * dense, *line)
