"""Token pruning for embeddings: a linear map says where a pruned token would have ended.

A token that is pruned between attention and feed-forward network of one early layer, with the
state h there, ends, before the final norm, at

    A h + b  ~  its state after the last layer of the unpruned model

by a ridge regression of the last states on those of this layer, over the pruned tokens of some
unlabelled texts: no gradients. So the mean over all tokens, by which embeddings are pooled, still
counts every token, and tags and spans may be read off pruned ones.

The tokens of a text that stay are those that are farthest from its mean,

    s(h)  =  1 - cos(h, m),    m  =  sum over tokens i of the text of h_i / |h_i|

or, in an encoder without a head whose means over the sample's texts so change less, those that such
a map is expected to miss by most, by a second regression, of its errors over all tokens:

    s(h)  =  u h  ~  | last state - (A h + b) |

They no longer see the pruned ones, so a third map mends their last states l, of a text of which a
share f of the tokens is pruned:

    l + f (K l + k)  ~  last state in the unpruned model

Short texts, such as queries, are read whole: they cost little, and there is little to leave out.
In an optimized model both maps run in the precision of the layers; what tells the tokens that stay
is computed in fp32.

The map is the linear shortcut of "Jump to Conclusions" (Din et al., LREC-COLING 2024,
https://arxiv.org/abs/2303.09435), which ends whole texts by it; to end single tokens so, how they
are chosen, and the map of kept ones are ours.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from fewer._validation.settings import settings, validate
from fewer._validation.types import Count, Fraction, Natural, Positive, Proportion
from fewer.core.cost import ModelSpec, Task, lengths_of
from fewer.core.decision import Decision, Shortcut, Site, View
from fewer.core.learning import CalibrationData, TrainingBatch, warn_if_missed
from fewer.core.needs import NO_NEEDS, Needs
from fewer.core.operating_points import OperatingPoints, Point
from fewer.core.packed import Packed
from fewer.core.partition import can_look
from fewer.core.phase import CALIBRATION, Phase
from fewer.core.policy import EstimatingPolicy
from fewer.core.removed import gather_rows, scatter_rows
from fewer.core.trace import LayerTrace, Trace
from fewer.kernels.cpu.batch_invariant import ResidualLinear
from fewer.methods.pruning.layer_search import find_share
from fewer.methods.pruning.streamed_ridge import StreamedRidge, with_one
from fewer.methods.pruning.token_counts import ROUNDING
from fewer.methods.select import keep_top

__all__ = ["LinearShortcut", "LinearShortcutPolicy"]

LEAST_SHARE = 0.02  # of the tokens of a text that are kept
LEAST_TOKENS = 16  # for each number of a state: below it a warning
SHARES = (0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)


@settings
class LinearShortcut:
    """Prune tokens in one layer, and estimate their last states by a linear map."""

    target: Fraction = 0.8  # share of the dense FLOPs to keep
    layer: Natural | None = None  # that prunes; the first layer is 0. None: a sixth up the model
    shortest: Count = 64  # tokens of a text that is pruned; shorter ones are read whole
    ridge: Positive = 1e-3  # the penalty of all three, in mean squares of the states

    def build(self, spec: ModelSpec) -> LinearShortcutPolicy:
        """Make the map, which is the identity, and prunes nothing, until it is calibrated."""
        return LinearShortcutPolicy(self, spec)

    def phases(self) -> tuple[Phase, ...]:
        """Calibrate only: no step of training."""
        return (CALIBRATION,)


class LinearShortcutPolicy(EstimatingPolicy):
    """The share of the tokens that is kept, and how those that are pruned and kept end."""

    sites = frozenset({Site.MIDDLE, Site.AFTER})
    share: Tensor
    error_weight: Tensor
    by_error: Tensor

    def __init__(self, method: LinearShortcut, spec: ModelSpec) -> None:
        super().__init__()
        self.layer = spec.num_layers // 6 if method.layer is None else method.layer
        if self.layer >= spec.num_layers:
            raise ValueError(
                f"layer must be below the number of layers, {spec.num_layers}; got {self.layer}."
            )
        self.method, self.spec, width = method, spec, spec.hidden_size
        self.num_layers = spec.num_layers
        self.flops_of_token = 2.0 * width * width
        self.register_buffer("share", torch.ones(()))
        self.register_buffer("error_weight", torch.zeros(width))
        self.register_buffer("by_error", torch.zeros((), dtype=torch.bool))
        self.pruned_ends = ResidualLinear(width)
        self.kept_ends = ResidualLinear(width)
        self._seen: list[_Seen] | None = None  # of each pass, while anything is fitted

    def needs(self, layer: int, phase: Phase) -> Needs:
        """Return the last states while anything is fitted to them."""
        is_goal = self._seen is not None and layer == self.num_layers - 1
        return Needs(states=True) if is_goal else NO_NEEDS

    def acts_in(self, layer: int, site: Site) -> bool:
        """Return whether this layer prunes, or is the last, after which kept tokens are mended."""
        return layer == (self.layer if site is Site.MIDDLE else self.num_layers - 1)

    def decide(self, view: View) -> Decision | None:
        """Prune tokens, or mend the last states of those that were kept; `None` for short texts."""
        if self._seen is None and 0 < max(view.host_lengths, default=0) < self.method.shortest:
            return None  # such as a batch of queries
        return self._prune(view) if view.site is Site.MIDDLE else self._mend(view)

    def _prune(self, view: View) -> Decision:
        """Keep the tokens farthest from the mean, or those that the map is expected to miss."""
        tokens = view.tokens
        counts = self._counts(view.lengths, self.share).long()
        decision = Decision.keep(keep_top(self._scores(tokens), tokens, counts))
        if self._seen is not None:
            is_pruned = decision.with_guarantees(tokens).pruned_among(tokens)
            is_long = view.lengths[tokens.sequence] >= self.method.shortest
            assert is_pruned is not None
            self._seen.append(_Seen(tokens.slot, tokens.hidden, is_long, is_pruned))
        shortcut = Shortcut(self.pruned_ends, self.flops_of_token)
        return replace(decision, restores=True, shortcut=shortcut)

    def _mend(self, view: View) -> Decision:
        """Map the last states of kept tokens; texts that are read whole stay as they are."""
        tokens, shares = view.tokens, self._pruned_share(view.lengths)
        share = shares[tokens.sequence]
        if tokens.alive is not None:  # some are pruned, by this method or another, and in memory
            share = share * tokens.alive
        # on a device the map of all tokens costs less than to wait for the number of these
        rows = (share > 0).nonzero().squeeze(1) if can_look(share) else None
        states, share = gather_rows(tokens.hidden, rows).float(), gather_rows(share, rows)
        mended = torch.lerp(states, self.kept_ends(states), share.unsqueeze(1))
        mended = mended.to(tokens.hidden.dtype)
        flops = self.flops_of_token * (shares > 0) * tokens.count(tokens.gate)
        return Decision(states=scatter_rows(tokens.hidden, mended, rows), head_flops=flops)

    def _scores(self, tokens: Packed) -> Float[Tensor, "T"]:
        if not can_look(self.by_error):
            distances = distance_from_mean(tokens)
            return torch.where(self.by_error, self._expected_errors(tokens), distances)
        return self._expected_errors(tokens) if self.by_error else distance_from_mean(tokens)

    def _expected_errors(self, tokens: Packed) -> Float[Tensor, "T"]:
        return (tokens.hidden.float() * self.error_weight).sum(1)

    def calibrate(self, phase: Phase, data: CalibrationData) -> None:
        """Fit which tokens stay, their share to the target, and how pruned and kept ones end.

        Raises `ValueError` for texts of which none is long enough to be pruned.
        """
        if not data.first:
            return
        self.share.fill_(1.0)
        lengths = self._fit_map(data)
        target = self.method.target
        share = find_share(lambda share: self._predict(lengths, share), target, LEAST_SHARE)
        start = 1.0 / (share or LEAST_SHARE)  # one pass checks it, unless patterns are sparse
        gap = data.bisect(target, self._keep, 1.0, 1.0 / LEAST_SHARE, start)
        self._choose(data)
        warn_if_missed(
            "the linear shortcut",
            target,
            gap,
            f"layers 0 to {self.layer} read every token, and texts of fewer than "
            f"{self.method.shortest} tokens are read whole",
        )

    def _choose(self, data: CalibrationData) -> None:
        """Fit how tokens end; without a head by both rules, to keep that which changes means less.

        What a head reads is no mean: there tokens stay by their distance.
        """
        self.by_error.fill_(False)
        if self.spec.task is not Task.OTHER:
            self._fit_ends(data)
            return
        self._fit_errors(data)  # of the map of all tokens, before it is fitted anew
        by_distance = self._fit_ends(data)
        fitted = {name: tensor.clone() for name, tensor in self.state_dict().items()}
        self.by_error.fill_(True)
        if self._fit_ends(data) > by_distance:
            self.load_state_dict(fitted)

    def _fit_map(self, data: CalibrationData) -> Float[Tensor, "B"]:
        """Fit the map to the tokens of all long texts; return the length of each text."""
        width = self.spec.hidden_size
        regression, lengths = StreamedRidge(width, width), []
        for seen, last, trace in self._watch_whole(data):
            lengths.append(lengths_of(trace))
            regression.add(with_one(seen.states), last - seen.states, seen.is_long)
        if not any(bool((each >= self.method.shortest).any()) for each in lengths):
            raise ValueError(
                f"texts must have {self.method.shortest} tokens or more to be pruned; got none "
                "that long. Pass texts as in production, or a lower LinearShortcut(shortest=...)."
            )
        self._warn_if_few(regression)
        self.pruned_ends.set_map(*regression.solve(self.method.ridge))
        return torch.cat(lengths)

    def _warn_if_few(self, regression: StreamedRidge) -> None:
        """Warn of a sample that says little about other texts: short, or the same again."""
        width, rows, rank = self.spec.hidden_size, regression.rows, regression.rank
        if rows < LEAST_TOKENS * width or 2 * rank < width:
            warnings.warn(
                f"the linear shortcut is fitted to {rows} tokens of texts that are long enough to "
                f"be pruned, whose states lie in {rank} of {width} directions: vectors of other "
                "texts may be far off. Give some hundred different ones, of "
                f"{LEAST_TOKENS * width} tokens or more",
                stacklevel=2,
            )

    def _fit_errors(self, data: CalibrationData) -> None:
        """Fit what says by how much the map misses a token."""
        regression = StreamedRidge(self.spec.hidden_size, 1)
        for seen, last, _ in self._watch_whole(data):
            errors = (last - self.pruned_ends(seen.states)).norm(dim=1, keepdim=True)
            regression.add(with_one(seen.states), errors, seen.is_long)
        weight, _ = regression.solve(self.method.ridge)
        self.error_weight.copy_(weight[0])

    def _fit_ends(self, data: CalibrationData) -> float:
        """Fit the map to the tokens that are pruned, then what mends the others.

        Returns by how much, squared, the means of texts change before that.
        """
        width = self.spec.hidden_size
        self.kept_ends.reset_parameters()
        regression, goals = StreamedRidge(width, width), []
        for seen, last, trace in self._watch_whole(data):
            regression.add(with_one(seen.states), last - seen.states, seen.is_pruned)
            is_kept = seen.is_long & ~seen.is_pruned
            means = _text_means(last, seen.slot, trace)
            goals.append((seen.slot[is_kept], last[is_kept], means))
        self.pruned_ends.set_map(*regression.solve(self.method.ridge))
        regression, change = StreamedRidge(width, width), 0.0
        for (slots, goal, means), batch in zip(
            goals, self._watch(data.real_batches()), strict=True
        ):
            assert self._seen
            seen, trace = self._seen[0], batch.trace
            change += float((self._means(seen, trace) - means).square().sum())
            states, is_last = _last_states(trace, slots)
            share = self._pruned_share(lengths_of(trace))[slots // trace.grid[1]]
            regression.add(share.unsqueeze(1) * with_one(states), goal - states, is_last)
        self.kept_ends.set_map(*regression.solve(self.method.ridge))
        return change

    def _means(self, seen: _Seen, trace: Trace) -> Float[Tensor, "B D"]:
        """Return the mean over each text of its last states, those of pruned tokens estimated."""
        gone, slots = seen.is_pruned, seen.slot[~seen.is_pruned]
        states, is_last = _last_states(trace, slots)
        ends = torch.cat((states[is_last], self.pruned_ends(seen.states[gone]).float()))
        return _text_means(ends, torch.cat((slots[is_last], seen.slot[gone])), trace)

    def _watch_whole(
        self, data: CalibrationData
    ) -> Iterator[tuple[_Seen, Float[Tensor, "T D"], Trace]]:
        """Read the sample unpruned; yield its batches as seen here, the last states, the trace."""
        for batch in self._watch(data.batches()):
            assert self._seen
            (seen,) = self._seen
            last, is_last = _last_states(batch.trace, seen.slot)
            yield _Seen(*(part[is_last] for part in seen)), last[is_last], batch.trace

    def _watch(self, batches: Iterator[TrainingBatch]) -> Iterator[TrainingBatch]:
        """Note what the layer that prunes sees of each batch, and the last states."""
        self._seen = []
        try:
            for batch in batches:
                yield batch
                self._seen.clear()
        finally:
            self._seen = None

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
        flops = lengths * (remaining < lengths) * self.flops_of_token  # each token has a map
        trace = Trace((len(lengths), 1), lengths.device, lengths, layers, head_flops=flops)
        return float(self.spec.flops_ratio(trace))

    def _keep(self, inverse: float) -> None:
        self.share.fill_(1.0 / inverse)

    def _counts(self, lengths: Float[Tensor, "B"], share: Tensor) -> Float[Tensor, "B"]:
        """Return how many tokens of each text stay: a share rounded up, all of a short one."""
        count = (share * lengths * (1 - ROUNDING)).ceil()
        return torch.where(lengths < self.method.shortest, lengths, count)

    def _pruned_share(self, lengths: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
        return 1.0 - self._counts(lengths, self.share) / lengths


def distance_from_mean(tokens: Packed) -> Float[Tensor, "T"]:
    """Return 1 - cos of each token's state and the mean of its text's, all of length 1; fp32."""
    units = functional.normalize(tokens.hidden.float(), dim=1)
    weighted = units if tokens.gate is None else units * tokens.gate.float().unsqueeze(1)
    sums = torch.zeros(tokens.grid[0], units.shape[1], device=units.device)
    sums = functional.normalize(sums.index_add(0, tokens.sequence, weighted), dim=1)
    return 1.0 - (units * sums[tokens.sequence]).sum(1)


class _Seen(NamedTuple):
    """The tokens of a batch as the layer that prunes saw them."""

    slot: Int[Tensor, "T"]
    states: Float[Tensor, "T D"]
    is_long: Bool[Tensor, "T"]  # of a text that is pruned
    is_pruned: Bool[Tensor, "T"]


def _last_states(
    trace: Trace, slots: Int[Tensor, "G"]
) -> tuple[Float[Tensor, "G D"], Bool[Tensor, "G"]]:
    """Return the last states of tokens, and which of these the last layer read.

    Another method may have pruned the rest.
    """
    last = trace.layers[-1]
    assert last.slot is not None
    assert last.states is not None
    rows = torch.searchsorted(last.slot, slots).clamp_max(len(last.slot) - 1)
    return last.states[rows].float(), last.slot[rows] == slots


def _text_means(
    states: Float[Tensor, "T D"], slot: Int[Tensor, "T"], trace: Trace
) -> Float[Tensor, "B D"]:
    """Sum states by their text, and divide by the number of its tokens."""
    sums = torch.zeros(trace.grid[0], states.shape[1], device=states.device)
    sums.index_add_(0, slot // trace.grid[1], states)
    return sums / lengths_of(trace).unsqueeze(1)


def _check(share: Point) -> None:
    validate(Proportion, share, "threshold")
    if not share:
        raise ValueError("threshold must be above 0, the share of the tokens that is kept; got 0.")
