"""Length-Adaptive Transformer (Kim and Cho, ACL 2021, https://arxiv.org/abs/2010.07003).

One training, then any budget. A length configuration says how many tokens leave each layer; the
tokens that receive most attention stay, between attention and feed-forward network:

    s_j  =  sum over heads h and queries i of A[h, i, j]
    l_i  ~  Uniform[(1 - p) * l_(i-1), l_(i-1)],   drawn anew for each pass (LengthDrop)

Each step trains the full model by the task's loss, and the smallest configuration, (1 - p) in each
layer, and n random ones by what the full model answers, each of the n + 2 with the same weight (the
sandwich rule). After training an evolutionary search measures configurations on rows that nothing
trained on, and keeps those that no other beats in both FLOPs and score. A budget chooses among
them: `fewer.set_threshold(model, 0.5)` takes the best that keeps at most half of the FLOPs.

What differs from the authors' code, and why:

- Lengths are shares of the text: a text of n tokens keeps ceil(share * n), two at least. Theirs are
  counts of a padded length. A random share is a real number, theirs a whole count.
- LayerDrop, which drops each layer of each pass of training, the full model's too, is off by
  default; theirs has 0.2.
- Scores leave out padding and dropout, and survivors stay in the order of the text.
- The search is on held-out rows and by the mean loss, not by accuracy on the data that it is then
  reported for; without labels, by how closely the full model's answers are met. FLOPs are those of
  the rows, not of one text of full length.
- It measures fewer configurations by default, and stops trying where nothing new comes up; theirs
  may loop for ever.
- `target` mixes the two neighbours on the front so that the share is met, not only stayed below.

Drop-and-restore is what the loop does: a pruned token keeps the output of the last layer it
finished, heads of tags read it, and so do heads of spans, where it may begin or end the answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from annotated_types import MinLen
from pydantic import Strict
from torch import Tensor

from fewer._validation.settings import settings
from fewer._validation.types import Count, Fraction, Natural, NonNegative, Probability
from fewer.core.cost import ModelSpec
from fewer.core.decision import Decision, Site, View
from fewer.core.learning import CalibrationData, TrainingBatch, warn_if_missed
from fewer.core.needs import Needs
from fewer.core.operating_points import OperatingPoints, Point
from fewer.core.packed import Packed
from fewer.core.phase import Pass, Phase
from fewer.core.policy import Policy
from fewer.methods.distillation import distance_to
from fewer.methods.pruning.length_search import (
    LEAST,
    Candidate,
    SearchSettings,
    Shares,
    expected_ratio,
    interpolate,
    is_monotone,
    search,
    spaced_shares,
    thin_out,
)
from fewer.methods.pruning.token_counts import TokenCounts, share_of

__all__ = ["LengthAdaptive", "LengthAdaptivePolicy"]

ARCHIVE = 24  # configurations that are saved with the model
FULL = 1.0  # the budget at which nothing is pruned
USUAL_LENGTH = 128  # of the text that FLOPs are of, until the search has measured texts


@settings
class LengthAdaptive:
    """Train for every length configuration at once; then search the best for each budget."""

    drop: Fraction = 0.2  # p: a layer drops at most so much of what came in
    layer_drop: Probability = 0.0  # with which a pass of training drops a layer
    random_models: Natural = 2  # n: random configurations of each step
    # the divergence from the full model's answers: KL(random || full) as in their code, or usual
    divergence: Literal["reverse", "forward"] = "reverse"
    target: Fraction | None = None  # share of the dense FLOPs to keep; None: the full model
    lengths: Annotated[tuple[Fraction, ...], Strict(False), MinLen(1)] | None = None  # no search
    population: Count = 20  # constant-ratio configurations that the search starts from
    iterations: Natural = 5
    offspring: Count = 10  # mutations, and as many crossovers, of an iteration
    epochs: NonNegative = 5.0
    learning_rate: NonNegative = 2e-5

    def __post_init__(self) -> None:
        """Refuse lengths that grow or come with a target."""
        if self.lengths is None:
            return
        if self.target is not None:
            raise ValueError(
                f"target must be absent with lengths; got target={self.target}. Leave lengths out "
                "to search them, or target."
            )
        if not is_monotone(self.lengths):
            raise ValueError(
                f"lengths must not grow from layer to layer; got {self.lengths}. A pruned token "
                "does not come back."
            )

    def build(self, spec: ModelSpec) -> LengthAdaptivePolicy:
        """Make the archive of configurations and the budget."""
        return LengthAdaptivePolicy(self, spec)

    def phases(self) -> tuple[Phase, ...]:
        """Train all sub-models in each step; then search on held-out rows."""
        weight = 1 / (2 + self.random_models)
        full = Pass("compact", task=weight, policy=0.0)
        smaller = Pass("compact", task=0.0, policy=weight, teacher=0)
        return (
            Phase(
                "sandwich",
                "compact",
                "all",
                self.epochs,
                self.learning_rate,
                regularise=True,
                calibrate=True,
                holds_out=True,
                passes=(full, *(smaller,) * (1 + self.random_models)),
            ),
        )


class LengthAdaptivePolicy(Policy):
    """The archive of length configurations, and the budget that chooses among them.

    Until the search the archive holds constant-ratio configurations, and the budget is full.
    """

    def __init__(self, method: LengthAdaptive, spec: ModelSpec) -> None:
        super().__init__()
        lengths, layers = method.lengths, spec.num_layers
        if lengths is not None and len(lengths) != layers:
            raise ValueError(
                f"lengths must have a share for each of the {layers} layers; got {len(lengths)}. "
                "Give one per layer."
            )
        self.sites = frozenset({Site.BEFORE, Site.MIDDLE} if method.layer_drop else {Site.MIDDLE})
        self.method = method
        self.spec = spec
        self.budget: Tensor
        self.ratios: Tensor
        self.archive: Tensor
        self.register_buffer("budget", torch.tensor(FULL))
        self.register_buffer("ratios", torch.zeros(ARCHIVE))
        self.register_buffer("archive", torch.ones(ARCHIVE, layers))
        usual = (USUAL_LENGTH,)
        start = (
            spaced_shares(spec, 1 - method.drop, ARCHIVE, usual) if lengths is None else [lengths]
        )
        costs = [Candidate(shares, expected_ratio(spec, shares, usual), 0.0) for shares in start]
        self._store(_cheaper(costs))
        if lengths is not None:
            self.budget.fill_(0.0)

    def needs(self, layer: int, phase: Phase) -> Needs:
        """Attention received, but not in the full model of a step."""
        return Needs(received=not _is_full(phase))

    def begin(self, tokens: Packed, phase: Phase) -> _Draw:
        """Choose the length configuration of a pass: of the budget, or as the sandwich rule has it.

        Full, then the smallest, then a random one for each further pass. A layer that is dropped
        prunes nothing.
        """
        if not phase.passes:
            archived = torch.cat((self.budget[None], self.ratios, self.archive.flatten()))
            return _Draw(TokenCounts.plan(tokens, archived, self._counts_by_budget))
        layers, drop = len(self.archive[0]), self.method.layer_drop
        is_dropped = torch.rand(layers) < drop if drop else torch.zeros(layers, dtype=torch.bool)
        dropped = frozenset(is_dropped.nonzero().flatten().tolist())
        if _is_full(phase):
            return _Draw(None, dropped)
        ratios = torch.full((layers,), 1 - self.method.drop)
        if phase.number > 1:
            ratios = 1 - self.method.drop * torch.rand(layers)
        shares = ratios.masked_fill(is_dropped, 1.0).cumprod(0).to(tokens.slot.device)
        return _Draw(TokenCounts.plan(tokens, shares, _counts), dropped)

    def decide(self, view: View) -> Decision | None:
        """Keep the tokens that receive most attention, as many as the configuration says."""
        draw: _Draw = view.state
        if view.site is Site.BEFORE:
            return Decision(skips_layer=True) if view.layer in draw.dropped else None
        if draw.counts is None:
            return None
        received = view.evidence.received
        assert received is not None
        return replace(draw.counts.decide(view, received), restores=True)

    def loss(self, batch: TrainingBatch) -> Tensor:
        """Return how far a smaller model's answers are from those of the full one."""
        if batch.teacher is None:
            return batch.logits.new_zeros(())
        return self._distance(batch, batch.teacher.logits)

    def calibrate(self, phase: Phase, data: CalibrationData) -> None:
        """Search configurations on the sample after training; set the budget to the target."""
        if data.first or self.method.lengths is not None:
            return
        # of the data: a stack gives its part of the phase alone
        method, real = self.method, data.phase.in_place("compact", exits=True)
        self.budget.fill_(FULL)
        full = list(data.run(real))
        if not full:
            return
        lengths = [int(n) for batch in full for n in _lengths(batch).tolist()]

        def measure(shares: Shares) -> Candidate:
            self._try(shares)
            return self._measure(shares, list(data.run(real)), full)

        start = spaced_shares(self.spec, 1 - method.drop, method.population, lengths)
        front = search(measure, start, SearchSettings(method.iterations, method.offspring))
        front = _cheaper(front)
        budget = FULL
        if method.target is not None:
            front, budget = self._meet(method.target, front, data)
        self._store(front)
        self.budget.fill_(budget)

    def operating_points(self) -> OperatingPoints:
        """Return the budget: the share of FLOPs to keep at most."""
        points = dict.fromkeys(math.ceil(ratio * 1e4) / 1e4 for ratio in self.ratios.tolist())
        path = tuple(point for point in points if point < FULL)
        return OperatingPoints((self.budget,), FULL, path, self._check_budget, one_training=True)

    def configuration(self) -> Shares:
        """Return the share of a text's tokens that leaves each layer at the present budget."""
        numbers = (self.budget[None], self.ratios, self.archive.flatten())
        return self._choose(torch.cat(numbers).tolist())

    def _check_budget(self, point: Point) -> None:
        """Raise `ValueError` for a budget that no configuration keeps to."""
        least = float(self.ratios.min())
        if isinstance(point, tuple) or not least <= point <= FULL:
            raise ValueError(
                f"threshold must be a share of the FLOPs from {math.ceil(least * 1e4) / 1e4:g}, "
                f"that of the smallest configuration, to 1; got {point}."
            )

    def _counts_by_budget(self, numbers: Sequence[float], length: int) -> list[int]:
        return _counts(self._choose(numbers), length)

    def _choose(self, numbers: Sequence[float]) -> Shares:
        """Return the costliest configuration within the budget, or the cheapest of all.

        `numbers` holds the budget, the ratios of the archive, and its shares.
        """
        layers = self.archive.shape[1]
        budget, ratios = numbers[0], numbers[1 : 1 + ARCHIVE]
        if budget >= FULL:
            return (FULL,) * layers
        within = [row for row, ratio in enumerate(ratios) if ratio <= budget + 1e-6]
        row = (
            max(within, key=lambda row: ratios[row])
            if within
            else min(range(ARCHIVE), key=lambda row: ratios[row])
        )
        start = 1 + ARCHIVE + row * layers
        return tuple(numbers[start : start + layers])

    def _store(self, front: Sequence[Candidate]) -> None:
        """Put configurations in the archive; the last fills what is left of it."""
        rows = thin_out(front, ARCHIVE)
        rows += rows[-1:] * (ARCHIVE - len(rows))
        self.archive.copy_(self.archive.new_tensor([row.shares for row in rows]))
        self.ratios.copy_(self.ratios.new_tensor([row.ratio for row in rows]))

    def _try(self, shares: Shares) -> None:
        """Let the next passes run by this configuration."""
        self._store([Candidate(shares, 0.0, 0.0)])
        self.budget.fill_(0.0)

    def _measure(
        self, shares: Shares, batches: Sequence[TrainingBatch], full: Sequence[TrainingBatch]
    ) -> Candidate:
        """Measure FLOPs and score of the batches of a pass, `full` those of the full model."""
        flops = sum(float(self.spec.flops(batch.trace).sum()) for batch in batches)
        dense = sum(float(self.spec.dense_flops_of(batch.trace).sum()) for batch in batches)
        total, texts = 0.0, 0
        for batch, reference in zip(batches, full, strict=True):
            size = batch.trace.grid[0]
            if batch.labels is None:
                total += size * float(self._distance(batch, reference.logits))
            else:
                total += float(batch.losses.sum())
            texts += size
        return Candidate(shares, flops / dense, -total / texts)

    def _meet(
        self, target: float, front: Sequence[Candidate], data: CalibrationData
    ) -> tuple[list[Candidate], float]:
        """Add the configuration of the target to the front: between the two nearest ones."""
        below = next(
            (row for row, candidate in enumerate(front) if candidate.ratio <= target), None
        )
        if below is None:
            least = front[-1].ratio
            warn_if_missed(
                "LengthAdaptive",
                target,
                max(0.0, least - target),
                "that is its smallest configuration. Train with a higher drop",
            )
            return list(front), least
        cheap = front[below]
        costly = front[below - 1].shares if below else (FULL,) * len(cheap.shares)
        tried = [cheap.shares]

        def mix(number: float) -> None:  # from 1, the costly one, to 2, the cheap one
            tried[0] = interpolate(costly, cheap.shares, number - 1)
            self._try(tried[0])

        ratio = target + data.bisect(target, mix, 1.0, 2.0, 1.5)
        point = Candidate(tried[0], ratio, cheap.score)
        return sorted([*front, point], key=lambda candidate: -candidate.ratio), ratio

    def _distance(self, batch: TrainingBatch, goal: Tensor) -> Tensor:
        reverse = self.method.divergence == "reverse"
        return distance_to(batch, goal, self.spec.task, reverse=reverse)


@dataclass(frozen=True)
class _Draw:
    """What is chosen for a pass: tokens that stay (`None`: all), and layers that are dropped."""

    counts: TokenCounts | None
    dropped: frozenset[int] = frozenset()


def _is_full(phase: Phase) -> bool:
    """Return whether a pass is that of the full model of a step."""
    return bool(phase.passes) and phase.number == 0


def _cheaper(front: Sequence[Candidate]) -> list[Candidate]:
    """Return those that take less than the dense model; if there are none, the cheapest.

    A configuration that hardly prunes takes more, for the scores.
    """
    return [candidate for candidate in front if candidate.ratio < FULL] or list(front[-1:])


def _counts(shares: Sequence[float], length: int) -> list[int]:
    return [share_of(share, length, LEAST) for share in shares]


def _lengths(batch: TrainingBatch) -> Tensor:
    lengths = batch.trace.lengths
    assert lengths is not None  # of a pass of the loop
    return lengths
