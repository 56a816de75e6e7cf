"""Token pruning without training: thresholds from some unlabelled texts.

In some neighbouring layers, between attention and feed-forward network, a token is pruned when its
score falls below the layer's threshold. Scores are relative to the mean of the text, so that a
threshold means the same for short and long texts:

| rule | score of token j, before it is divided by the mean over its text |
|---|---|
| `received` | attention received, sum over heads and queries (LTP eq. 4; PoWER-BERT) |
| `cumulative` | the same, added up over the layers that prune so far (SpAtten's cascade) |
| `cls` | attention of the first token, sum over heads |
| `value` | attention of the first token times the length of what it carries, sum over heads |

Of pairs, such as a query and a document, the rule `lexical` prunes the second text before the first
layer, by how near a token is to words of the first; no layer is searched and nothing merged.

Which layers prune is chosen on the sample, from `first_layer` on (`search`): those with which the
answers stay closest to those of the unpruned model, by their Kullback-Leibler divergence, at the
same FLOPs. Without the search all of them prune.

The thresholds are quantiles: each of these layers keeps the same share of the tokens that it gets,
and the share is bisected until the FLOPs of the sample are the `target`. Texts differ in how many
of their tokens lie above the thresholds.

The tokens that a layer prunes in a text are merged into the best of them, which stays (`merge`), in
models whose answer is that of a text.

Classifiers of whole texts that read only the first token need no other output of the last layer. So
there it is the only query (`only_first_last`), which changes no answer.

No paper is followed in full: the scores are those of the papers named, the calibration is ours.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fewer._validation.settings import settings
from fewer._validation.types import Fraction, Natural
from fewer.core.cost import WHOLE_TEXT, ModelSpec, lengths_of
from fewer.core.decision import Decision, Site, View
from fewer.core.learning import CalibrationData, warn_if_missed
from fewer.core.needs import Needs
from fewer.core.operating_points import OperatingPoints
from fewer.core.packed import Packed
from fewer.core.phase import CALIBRATION, Phase
from fewer.core.policy import Policy
from fewer.methods.distillation import distance_to
from fewer.methods.last_layer import freeze_unread
from fewer.methods.pruning.factor_points import factor_points
from fewer.methods.pruning.layer_search import find_share, grow_best, predict_ratio
from fewer.methods.pruning.lexical import LexicalPolicy
from fewer.methods.pruning.merging import keep_merged

__all__ = ["TrainingFree", "TrainingFreePolicy"]

CARRIED = "score"  # of the rule `cumulative`
LEAST_SHARE = 0.05  # of the tokens that a layer keeps
_OF_RECEIVED = ("received", "cumulative")  # rules that sum the attention received
_NEVER = -1.0  # threshold of a layer that does not prune: scores are 0 or more


@settings
class TrainingFree:
    """Prune tokens of a model as it is: thresholds are fitted to unlabelled texts."""

    rule: Literal["received", "cumulative", "cls", "value", "lexical"] = "cumulative"
    target: Fraction = 0.6  # share of the dense FLOPs to keep
    first_layer: Natural = 1  # that may prune; the first layer is 0
    search: bool = True  # whether the layers that prune are chosen; else all from the first
    merge: bool = True  # whether the pruned tokens of a text go on as one
    only_first_last: bool = True  # whether the last layer computes the first token only

    def build(self, spec: ModelSpec) -> TrainingFreePolicy | LexicalPolicy:
        """Make the thresholds, which prune nothing until they are calibrated."""
        if self.rule == "lexical":
            skips_last = self.only_first_last and spec.reads_first_token
            return LexicalPolicy(self, spec, self.target, skips_last=skips_last)
        return TrainingFreePolicy(self, spec)

    def phases(self) -> tuple[Phase, ...]:
        """Calibrate only: no step of training."""
        return (CALIBRATION,)


class TrainingFreePolicy(Policy):
    """A threshold per layer on relative scores, whose mean over a text is 1, and their factor."""

    sites = frozenset({Site.BEFORE, Site.MIDDLE})
    threshold: Tensor
    factor: Tensor

    def __init__(self, method: TrainingFree, spec: ModelSpec) -> None:
        super().__init__()
        self.merges = method.merge and spec.task in WHOLE_TEXT
        self.skips_last = method.only_first_last and spec.reads_first_token
        self.layers = range(method.first_layer, spec.num_layers - self.skips_last)
        if not self.layers and not self.skips_last:
            raise ValueError(
                f"first_layer must be below the number of layers, {spec.num_layers}; got "
                f"{method.first_layer}."
            )
        self.method = method
        self.spec = spec
        self.num_layers = spec.num_layers
        self.prunable = self.layers
        # below 0 in layers that may prune and do not
        self.register_buffer("threshold", torch.zeros(spec.num_layers))
        self.register_load_state_dict_post_hook(_read_layers)  # type: ignore[no-untyped-call]
        self.register_buffer("factor", torch.ones(()))
        self._share: float | None = None  # that each layer keeps while thresholds are fitted
        self._quantiles: list[tuple[int, float, int]] = []  # layer, threshold, tokens

    def needs(self, layer: int, phase: Phase) -> Needs:
        """Return what the scores of layers that prune are made of."""
        if layer not in self.layers:
            return Needs()
        rule = self.method.rule
        if rule in _OF_RECEIVED:
            return Needs(received=True)
        return Needs(pairs=True, values=rule == "value")

    def acts_in(self, layer: int, site: Site) -> bool:
        """Return whether the layer prunes, or tokens freeze before it."""
        if site is Site.BEFORE:
            return self.skips_last and layer == self.num_layers - 1
        return layer in self.layers

    def decide(self, view: View) -> Decision | None:
        """Compare scores with the layer's threshold; freeze all but the first token at last."""
        tokens = view.tokens
        if view.site is Site.BEFORE:
            return freeze_unread(view)
        scores = self._scores(view)
        if self._share is not None:
            self._fit_threshold(view.layer, scores, tokens)
        keep = scores >= self.factor * self.threshold[view.layer]
        carry = {CARRIED: scores} if self.method.rule == "cumulative" else {}
        if self.merges:
            return keep_merged(keep, scores, tokens, carry=carry)
        return Decision.keep(keep, carry=carry)

    def calibrate(self, phase: Phase, data: CalibrationData) -> None:
        """Fit quantiles to the target, then a common factor, since the quantiles are averaged."""
        if not data.first:
            return
        self.factor.fill_(1.0)
        target = self.method.target
        if self.prunable:
            self.layers = self._search(data) if self.method.search else self.prunable
            data.bisect(target, self._keep_share, 1.0, 1.0 / LEAST_SHARE, 1.25)
            self._average_quantiles()
        gap = data.bisect(target, self.factor.fill_, 1e-3, 1e3, 1.0)
        self.threshold.mul_(self.factor)
        self.factor.fill_(1.0)
        warn_if_missed(
            "training-free pruning",
            target,
            gap,
            "the layers before first_layer and protected tokens always stay, and tokens of "
            "equal score are pruned together",
        )
        self.threshold[[layer for layer in self.prunable if layer not in self.layers]] = _NEVER

    def operating_points(self) -> OperatingPoints:
        """Return the factor of the thresholds: 1 as they were fitted, 0 to prune nothing."""
        return factor_points(self.factor)

    def _search(self, data: CalibrationData) -> range:
        """Return the layers with which the answers stay closest to the unpruned model's."""
        dense = list(data.batches())
        answers = [batch.logits for batch in dense]
        lengths = torch.cat([lengths_of(batch.trace) for batch in dense])
        del dense  # their traces
        settings = {
            "scored": self.method.rule in _OF_RECEIVED,
            "merges": self.merges,
            "skips_last": self.skips_last,
        }

        def distance(layers: range) -> float:
            share = find_share(
                lambda share: predict_ratio(self.spec, lengths, layers, share, **settings),
                self.method.target,
                LEAST_SHARE,
            )
            if share is None:
                return float("inf")
            self.layers = layers
            self._keep_share(1.0 / share)
            distances = [
                len(logits) * float(distance_to(batch, logits, self.spec.task))
                for batch, logits in zip(data.real_batches(), answers, strict=True)
            ]
            return sum(distances) / len(lengths)

        return grow_best(self.prunable, distance)

    def _keep_share(self, inverse: float) -> None:
        self._share, self._quantiles = 1.0 / inverse, []
        self.threshold.zero_()

    def _average_quantiles(self) -> None:
        """Take the mean of each layer's quantiles over the batches, weighted by their tokens."""
        self.threshold.zero_()
        for layer in self.layers:
            of_layer = [(value, count) for at, value, count in self._quantiles if at == layer]
            total = sum(count for _, count in of_layer)
            if total:
                self.threshold[layer] = sum(value * count for value, count in of_layer) / total
        self._share = None

    def _fit_threshold(self, layer: int, scores: Tensor, tokens: Packed) -> None:
        """Set the threshold so that this batch keeps the share of what may be pruned."""
        assert self._share is not None
        ordered = scores[~tokens.roles.protected].float().sort().values
        if not len(ordered):
            self.threshold[layer] = 0.0
            return
        place = min(len(ordered) - 1, round((1 - self._share) * len(ordered)))
        self.threshold[layer] = ordered[place]
        self._quantiles.append((layer, float(ordered[place]), len(ordered)))

    def _scores(self, view: View) -> Float[Tensor, "T"]:
        tokens, rule = view.tokens, self.method.rule
        if rule in _OF_RECEIVED:
            assert view.evidence.received is not None
            scores = view.evidence.received
        else:
            scores = _of_first_token(view, weighted=rule == "value")
        relative = _relative(scores, tokens)
        if rule != "cumulative":
            return relative
        before = view.carried(CARRIED)
        return relative if before is None else relative + before


def _of_first_token(view: View, *, weighted: bool) -> Float[Tensor, "T"]:
    """Return the attention of the first token of each text, summed over heads."""
    query, key, logsumexp = view.evidence.attention_inputs
    first = view.tokens.cu[view.tokens.sequence]
    scores = (query[first].float() * key.float()).sum(-1)
    if view.evidence.relative is not None:
        column = view.tokens.placement.column
        distance = column[first] - column
        scores = scores + view.evidence.relative.scores_of_pairs(query[first], key, distance)
    scores = scores * query.shape[-1] ** -0.5
    attention = (scores - logsumexp[first]).exp()  # (T, H)
    if weighted:
        assert view.evidence.value is not None
        attention = attention * view.evidence.value.float().norm(dim=-1)
    total: Tensor = attention.sum(-1)
    return total


def _relative(scores: Float[Tensor, "T"], tokens: Packed) -> Float[Tensor, "T"]:
    """Divide by the mean over the living tokens of each text."""
    total = tokens.count(scores if tokens.gate is None else scores * tokens.gate)
    mean = total / tokens.count(tokens.gate).clamp_min(1.0)
    return scores / mean.clamp_min(torch.finfo(scores.dtype).tiny)[tokens.sequence]


def _read_layers(policy: TrainingFreePolicy, _: object) -> None:
    """Read from thresholds that were loaded which layers prune: the host has to know."""
    thresholds = policy.threshold.tolist()
    layers = [layer for layer in policy.prunable if thresholds[layer] >= 0]
    policy.layers = range(layers[0], layers[-1] + 1) if layers else policy.prunable
