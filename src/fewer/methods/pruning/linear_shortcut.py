"""Token pruning for embeddings: a linear map says where a pruned token would have ended.

In one layer, a third up the model, the tokens of a text stay that are farthest from its mean,
between attention and feed-forward network:

    s_j  =  1 - cos(h_j, m),    m  =  sum over tokens i of the text of h_i / |h_i|

and a pruned token ends, before the final norm, at

    A h_j + b  ~  its state after the last layer of the unpruned model

by a ridge regression of the last states on those of this layer, over the pruned tokens of some
unlabelled texts: no gradients. So the mean over all tokens, by which embeddings are pooled, still
counts every token, and tags and spans may be read off pruned ones.

Short texts, such as queries, are read whole: they cost little, and there is little to leave out.

The map is the linear shortcut of "Jump to Conclusions" (Din et al., LREC-COLING 2024,
https://arxiv.org/abs/2303.09435), which ends whole texts by it; to prune by the distance from the
mean, and to end single tokens so, is ours.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from fewer._validation.settings import settings, validate
from fewer._validation.types import Count, Fraction, Natural, Positive, Proportion
from fewer.core.cost import ModelSpec, lengths_of
from fewer.core.decision import Decision, Shortcut, Site, View
from fewer.core.learning import CalibrationData, warn_if_missed
from fewer.core.needs import NO_NEEDS, Needs
from fewer.core.operating_points import OperatingPoints, Point
from fewer.core.packed import Packed
from fewer.core.phase import CALIBRATION, Phase
from fewer.core.policy import EstimatingPolicy
from fewer.core.trace import LayerTrace, Trace
from fewer.methods.pruning.layer_search import find_share
from fewer.methods.pruning.token_counts import ROUNDING
from fewer.methods.select import keep_top

__all__ = ["LinearShortcut", "LinearShortcutPolicy"]

LEAST_SHARE = 0.02  # of the tokens of a text that are kept
SHARES = (0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)


@settings
class LinearShortcut:
    """Prune tokens in one layer, and estimate their last states by a linear map."""

    target: Fraction = 0.8  # share of the dense FLOPs to keep
    layer: Natural | None = None  # that prunes; the first layer is 0. None: a third up the model
    shortest: Count = 64  # tokens of a text that is pruned; shorter ones are read whole
    ridge: Positive = 1e-3  # the penalty, in mean squares of the states

    def build(self, spec: ModelSpec) -> LinearShortcutPolicy:
        """Make the map, which is the identity, and prunes nothing, until it is calibrated."""
        return LinearShortcutPolicy(self, spec)

    def phases(self) -> tuple[Phase, ...]:
        """Calibrate only: no step of training."""
        return (CALIBRATION,)


class LinearShortcutPolicy(EstimatingPolicy):
    """The share of the tokens that is kept, and the map of those that are not."""

    sites = frozenset({Site.MIDDLE})
    share: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, method: LinearShortcut, spec: ModelSpec) -> None:
        super().__init__()
        self.layer = spec.num_layers // 3 if method.layer is None else method.layer
        if self.layer >= spec.num_layers:
            raise ValueError(
                f"layer must be below the number of layers, {spec.num_layers}; got {self.layer}."
            )
        self.method, self.spec, width = method, spec, spec.hidden_size
        self.num_layers = spec.num_layers
        self.flops_of_token = 2.0 * width * width
        self.register_buffer("share", torch.ones(()))
        self.register_buffer("weight", torch.eye(width))
        self.register_buffer("bias", torch.zeros(width))
        self._pruned: list[tuple[Tensor, Tensor]] | None = None  # slots and states, while fitted

    def needs(self, layer: int, phase: Phase) -> Needs:
        """Return the last states while the map is fitted to them."""
        is_goal = self._pruned is not None and layer == self.num_layers - 1
        return Needs(states=True) if is_goal else NO_NEEDS

    def acts_in(self, layer: int, site: Site) -> bool:
        """Return whether this layer prunes."""
        return layer == self.layer

    def decide(self, view: View) -> Decision:
        """Keep the tokens that are farthest from the mean of their text."""
        tokens = view.tokens
        counts = self._counts(view.lengths, self.share).long()
        decision = Decision.keep(keep_top(distance_from_mean(tokens), tokens, counts))
        if self._pruned is not None:
            is_pruned = decision.with_guarantees(tokens).pruned_among(tokens)
            self._pruned.append((tokens.slot[is_pruned], tokens.hidden[is_pruned]))
        return replace(decision, restores=True, shortcut=Shortcut(self._map, self.flops_of_token))

    def calibrate(self, phase: Phase, data: CalibrationData) -> None:
        """Fit the share that is kept to the target, then the map to the last states.

        Raises `ValueError` for texts of which none is long enough to be pruned.
        """
        if not data.first:
            return
        self.share.fill_(1.0)
        lengths = torch.cat([lengths_of(batch.trace) for batch in data.batches()])
        if not bool((lengths >= self.method.shortest).any()):
            raise ValueError(
                f"texts must have {self.method.shortest} tokens or more to be pruned; got none "
                "that long. Pass texts as in production, or a lower LinearShortcut(shortest=...)."
            )
        target = self.method.target
        share = find_share(lambda share: self._predict(lengths, share), target, LEAST_SHARE)
        start = 1.0 / (share or LEAST_SHARE)  # one pass checks it, unless patterns are sparse
        gap = data.bisect(target, self._keep, 1.0, 1.0 / LEAST_SHARE, start)
        self._pruned = []
        try:
            equations = _NormalEquations(len(self.bias))
            for batch in data.batches():
                (slots, states), last = self._pruned.pop(), batch.trace.layers[-1]
                assert last.slot is not None
                assert last.states is not None
                rows = torch.searchsorted(last.slot, slots)
                equations.add(states, last.states[rows])
        finally:
            self._pruned = None
        weight, bias = equations.solve(self.method.ridge)
        self.weight.copy_(weight)
        self.bias.copy_(bias)
        warn_if_missed(
            "the linear shortcut",
            target,
            gap,
            f"layers 0 to {self.layer} read every token, and texts of fewer than "
            f"{self.method.shortest} tokens are read whole",
        )

    def operating_points(self) -> OperatingPoints:
        """Return the share of the tokens that is kept: 1 to prune nothing."""
        return OperatingPoints((self.share,), 1.0, SHARES, _check)

    def _predict(self, lengths: Float[Tensor, "B"], share: float) -> float:
        """Return the FLOPs ratio of texts of these lengths without a pass."""
        remaining = self._counts(lengths, lengths.new_tensor(share))
        layers = []
        for layer in range(self.num_layers):
            entered = lengths if layer <= self.layer else remaining
            read = lengths if layer < self.layer else remaining
            layers.append(LayerTrace(entered, entered, read, scored=False))
        flops = (lengths - remaining) * self.flops_of_token
        trace = Trace((len(lengths), 1), lengths.device, lengths, layers, head_flops=flops)
        return float(self.spec.flops_ratio(trace))

    def _keep(self, inverse: float) -> None:
        self.share.fill_(1.0 / inverse)

    def _counts(self, lengths: Float[Tensor, "B"], share: Tensor) -> Float[Tensor, "B"]:
        """Return how many tokens of each text stay: a share rounded up, all of a short one."""
        count = (share * lengths * (1 - ROUNDING)).ceil()
        return torch.where(lengths < self.method.shortest, lengths, count)

    def _map(self, states: Float[Tensor, "G D"]) -> Float[Tensor, "G D"]:
        ends = functional.linear(states.float(), self.weight.float(), self.bias.float())
        return ends.to(states.dtype)


def distance_from_mean(tokens: Packed) -> Float[Tensor, "T"]:
    """Return 1 - cos of each token's state and the mean of its text's, all of length 1; fp32."""
    units = functional.normalize(tokens.hidden.float(), dim=1)
    weighted = units if tokens.gate is None else units * tokens.gate.float().unsqueeze(1)
    sums = torch.zeros(tokens.grid[0], units.shape[1], device=units.device)
    sums = functional.normalize(sums.index_add(0, tokens.sequence, weighted), dim=1)
    return 1.0 - (units * sums[tokens.sequence]).sum(1)


class _NormalEquations:
    """Ridge regression of last states, whose penalty pulls to the state as it is; in fp64."""

    def __init__(self, width: int) -> None:
        self._gram = torch.zeros(width + 1, width + 1, dtype=torch.float64)
        self._moments = torch.zeros(width + 1, width, dtype=torch.float64)

    def add(self, states: Float[Tensor, "G D"], ends: Float[Tensor, "G D"]) -> None:
        """Add pairs of a state and what it became."""
        states, ends = states.detach().cpu().double(), ends.detach().cpu().double()
        inputs = functional.pad(states, (0, 1), value=1.0)  # a last input of 1 for the bias
        self._gram += inputs.T @ inputs
        self._moments += inputs.T @ (ends - states)

    def solve(self, ridge: float) -> tuple[Float[Tensor, "D D"], Float[Tensor, "D"]]:
        """Return weight and bias; the penalty is `ridge` times the mean square of an input."""
        width = self._moments.shape[1]
        penalty = torch.full((width + 1,), ridge * float(self._gram.diagonal()[:-1].mean()))
        penalty[-1] = 0.0  # none on the bias
        change = torch.linalg.solve(self._gram + penalty.double().diag(), self._moments)
        return (torch.eye(width) + change[:-1].T.float()), change[-1].float()


def _check(share: Point) -> None:
    validate(Proportion, share, "threshold")
    if not share:
        raise ValueError("threshold must be above 0, the share of the tokens that is kept; got 0.")
