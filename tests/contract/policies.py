"""Methods made for the tests, through the interface that every method has.

They draw by a hash of (position, layer): the same whoever is in the batch, however it is padded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

import fewer
from fewer import Decision, Fate, Phase, Policy, Site, View
from fewer.core.cost import ModelSpec
from fewer.core.needs import Needs
from fewer.methods.pruning import PoWERBERT


def chance(view: View, salt: int) -> Tensor:
    """Draw a number in [0, 1) for each token."""
    place = (view.tokens.position + 1).double() * 12.9898 + (view.layer + 1) * 78.233
    return torch.frac(torch.sin(place + 37.719 * salt).abs() * 43758.5453).float()


@dataclass(frozen=True)
class Untrained:
    """What the methods below have in common: nothing to learn."""

    def phases(self) -> tuple[Phase, ...]:
        return ()


@dataclass(frozen=True)
class Drop(Untrained):
    """Let a share of the tokens go at one site of every layer."""

    share: float = 0.25
    site: Site = Site.MIDDLE
    temperature: float = 0.05
    salt: int = 1

    def build(self, shape: ModelSpec) -> Policy:
        return _DropPolicy(self)


class _DropPolicy(Policy):
    def __init__(self, method: Drop) -> None:
        super().__init__()
        self.method = method
        self.sites = frozenset({method.site})

    def decide(self, view: View) -> Decision:
        margin = chance(view, self.method.salt) - self.method.share
        return Decision.keep(margin >= 0, torch.sigmoid(margin / self.method.temperature))


@dataclass(frozen=True)
class Freeze(Untrained):
    """Let a share of the tokens rest: still key and value, no longer query."""

    share: float = 0.3
    site: Site = Site.MIDDLE
    salt: int = 2

    def build(self, shape: ModelSpec) -> Policy:
        return _FreezePolicy(self)


class _FreezePolicy(Policy):
    def __init__(self, method: Freeze) -> None:
        super().__init__()
        self.method = method
        self.sites = frozenset({method.site})

    def decide(self, view: View) -> Decision:
        return Decision.freeze(chance(view, self.method.salt) < self.method.share)


@dataclass(frozen=True)
class Together(Untrained):
    """Learned thresholds, random removal and freezing at once, at both sites."""

    threshold: float = 0.1

    def build(self, shape: ModelSpec) -> Policy:
        return _TogetherPolicy(self, shape)


class _TogetherPolicy(Policy):
    sites = frozenset(Site)

    def __init__(self, method: Together, shape: ModelSpec) -> None:
        super().__init__()
        self.learned = fewer.LTP(final_threshold=method.threshold).build(shape)
        self.drop = Drop(share=0.1).build(shape)
        self.freeze = Freeze(share=0.2).build(shape)

    def needs(self, layer: int, phase: Phase) -> Needs:
        return self.learned.needs(layer, phase)

    def decide(self, view: View) -> Decision:
        drawn = self.drop.decide(view) & self.freeze.decide(view)
        learned = self.learned.decide(view) if view.site is Site.MIDDLE else None
        return drawn if learned is None else learned & drawn


@dataclass(frozen=True)
class ByState(Untrained):
    """Freeze some tokens at random; let those go whose state is low, frozen or not."""

    lowest: float = -0.6

    def build(self, shape: ModelSpec) -> Policy:
        return _ByStatePolicy(self, shape)


class _ByStatePolicy(Policy):
    sites = frozenset(Site)

    def __init__(self, method: ByState, shape: ModelSpec) -> None:
        super().__init__()
        self.lowest = method.lowest
        self.freeze = Freeze(share=0.3).build(shape)

    def decide(self, view: View) -> Decision:
        keep = Decision.keep(view.tokens.hidden[:, 0] >= self.lowest)
        return keep & self.freeze.decide(view)


@dataclass(frozen=True)
class Retain(Untrained):
    """PoWER-BERT with a configuration for any number of layers: of 12 tokens 9, ... down to 3."""

    counts: Literal["relative", "absolute"] = "relative"

    def build(self, spec: ModelSpec) -> Policy:
        layers = spec.num_layers
        retention = tuple(9 - 6 * layer // max(1, layers - 1) for layer in range(layers))
        method = PoWERBERT(retention=retention, reference_length=12, counts=self.counts)
        return method.build(spec)


@dataclass(frozen=True)
class Nobody(Untrained):
    """Ask for everything at once: all tokens gone, in every layer."""

    def build(self, shape: ModelSpec) -> Policy:
        return _NobodyPolicy()


class _NobodyPolicy(Policy):
    sites = frozenset(Site)

    def decide(self, view: View) -> Decision:
        return Decision(torch.full_like(view.tokens.slot, int(Fate.GONE), dtype=torch.int8))
