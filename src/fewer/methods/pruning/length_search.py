"""Search of length configurations: which share of a text's tokens leaves each layer.

The evolutionary search of Length-Adaptive Transformer. It knows configurations, costs and scores,
no model: whoever calls it says how a configuration is measured.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise

import torch

from fewer.core.cost import ModelSpec
from fewer.core.trace import LayerTrace, SparseCounts, Trace
from fewer.kernels.pattern import Pattern
from fewer.kernels.sparse import dense_pairs
from fewer.methods.pruning.token_counts import share_of

__all__ = [
    "LEAST",
    "Candidate",
    "SearchSettings",
    "Shares",
    "constant_shares",
    "cross",
    "expected_ratio",
    "interpolate",
    "is_monotone",
    "mutate",
    "pareto_front",
    "search",
    "spaced_shares",
    "thin_out",
]

LEAST = 2  # tokens that stay of every text, as long as there are
Shares = tuple[float, ...]  # of a text's tokens, that leave each layer; never more than before
_DIGITS = 4  # of a share: configurations that differ by less are the same
_GRID = 64  # steps of a constant ratio
_ATTEMPTS = 10  # for each new configuration that is wanted
_CHANCE = 0.5  # of a layer to be redrawn


@dataclass(frozen=True)
class Candidate:
    """A measured configuration."""

    shares: Shares
    ratio: float  # FLOPs over the dense FLOPs
    score: float  # higher is better


@dataclass(frozen=True)
class SearchSettings:
    """How long the search goes on."""

    iterations: int
    offspring: int  # mutations, and as many crossovers, of each iteration
    seed: int = 0


def is_monotone(shares: Sequence[float]) -> bool:
    """Return whether shares are in (0, 1] and never grow."""
    return all(0 < share <= 1 for share in shares) and all(
        after <= before for before, after in pairwise(shares)
    )


def constant_shares(ratio: float, layers: int) -> Shares:
    """Return the configuration in which every layer keeps the same ratio of what came in."""
    return tuple(ratio ** (layer + 1) for layer in range(layers))


def expected_ratio(spec: ModelSpec, shares: Shares, lengths: Sequence[int]) -> float:
    """Return the FLOPs of texts of these lengths over their dense FLOPs, without running them.

    Exact for texts whose only protected token is [CLS], in a model without a pattern; with one,
    the pairs are those of texts that have as many tokens as are left.
    """
    full = (1.0,) * spec.num_layers
    flops, dense = _flops(spec, shares, lengths, scored=True), _flops(spec, full, lengths)
    return flops / dense


def spaced_shares(
    spec: ModelSpec, smallest: float, size: int, lengths: Sequence[int]
) -> list[Shares]:
    """Return constant-ratio configurations, evenly spaced in FLOPs, the costliest first.

    The last has the ratio `smallest` in each layer; the full one is not among them.
    """
    layers = spec.num_layers
    grid = [smallest + (1 - smallest) * step / _GRID for step in range(_GRID + 1)]
    costs = [expected_ratio(spec, constant_shares(ratio, layers), lengths) for ratio in grid]
    targets = [costs[-1] + (costs[0] - costs[-1]) * number / size for number in range(1, size)]
    nearest = [
        grid[min(range(len(grid)), key=lambda at: abs(costs[at] - cost))] for cost in targets
    ]
    return [constant_shares(ratio, layers) for ratio in (*nearest, smallest)]


def pareto_front(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return the candidates that no other beats in both FLOPs and score, the costliest first."""
    front: list[Candidate] = []
    for candidate in sorted(candidates, key=_cheap_first):
        if not front or candidate.score > front[-1].score:
            front.append(candidate)
    return front[::-1]


def mutate(shares: Shares, least: float, draw: random.Random) -> Shares:
    """Redraw half of the layers, each between the next layer's share and that of the layer before.

    The last layer's share is at least `least`.
    """
    child: list[float] = []
    for layer, share in enumerate(shares):
        high = child[-1] if child else 1.0
        low = min(high, shares[layer + 1] if layer + 1 < len(shares) else least)
        child.append(draw.uniform(low, high) if draw.random() < _CHANCE else min(share, high))
    return _rounded(child)


def cross(first: Shares, second: Shares) -> Shares:
    """Average two configurations layer by layer."""
    return interpolate(first, second, 0.5)


def interpolate(first: Shares, second: Shares, weight: float) -> Shares:
    """Return the configuration that lies `weight` of the way from the first to the second."""
    return _rounded([a + weight * (b - a) for a, b in zip(first, second, strict=True)])


def search(
    measure: Callable[[Shares], Candidate], start: Sequence[Shares], settings: SearchSettings
) -> list[Candidate]:
    """Evolve configurations from a start; return the Pareto front of all that were measured.

    In each iteration members of the front mutate, then pairs of them cross. What was measured
    before is not measured again, and an iteration that finds nothing new ends.
    """
    draw = random.Random(settings.seed)
    measured = {shares: measure(shares) for shares in dict.fromkeys(map(_rounded, start))}
    least = min(shares[-1] for shares in measured)
    for _ in range(settings.iterations):
        for make in (partial(_mutant, least=least), _crossover):
            front, limit = pareto_front(measured.values()), len(measured) + settings.offspring
            for _ in range(_ATTEMPTS * settings.offspring):
                child = make(front, draw=draw)
                if child not in measured:
                    measured[child] = measure(child)
                if len(measured) == limit:
                    break
    return pareto_front(measured.values())


def thin_out(front: Sequence[Candidate], size: int) -> list[Candidate]:
    """Keep at most `size` candidates of a front, spread evenly over it, both ends among them."""
    if len(front) <= size:
        return list(front)
    if size == 1:
        return [front[-1]]
    return [front[round(step * (len(front) - 1) / (size - 1))] for step in range(size)]


def _flops(
    spec: ModelSpec, shares: Shares, lengths: Sequence[int], *, scored: bool = False
) -> float:
    entering = torch.tensor([float(length) for length in lengths])
    trace = Trace((len(lengths), max(lengths)), entering.device, entering)
    for cost, share in zip(spec.layers, shares, strict=True):
        leaving = torch.tensor([float(share_of(share, length, LEAST)) for length in lengths])
        pairs = None
        if cost.pattern is not None:
            counts = [_pairs(cost.pattern, int(n), spec.heads) for n in entering.tolist()]
            pairs = torch.tensor(counts)
        extra = partial(SparseCounts, pairs)
        trace.layers.append(LayerTrace(entering, entering, leaving, scored, count_extra=extra))
        entering = leaving
    return float(spec.flops(trace).sum())


def _cheap_first(candidate: Candidate) -> tuple[float, float]:
    return candidate.ratio, -candidate.score


@cache
def _pairs(pattern: Pattern, length: int, heads: int) -> float:
    """Count the pairs that a text of this length multiplies by a pattern."""
    return float(dense_pairs(pattern, torch.tensor([float(length)]), heads).sum())


def _mutant(front: Sequence[Candidate], draw: random.Random, least: float) -> Shares:
    return mutate(draw.choice(front).shares, least, draw)


def _crossover(front: Sequence[Candidate], draw: random.Random) -> Shares:
    return cross(draw.choice(front).shares, draw.choice(front).shares)


def _rounded(shares: Sequence[float]) -> Shares:
    return tuple(round(share, _DIGITS) for share in shares)
