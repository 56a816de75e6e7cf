"""Policies that need what the missing papers need, each in the fewest lines: not the papers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fewer import Decision, Needs, Phase, Policy, Site, View
from fewer.core.cost import ModelSpec
from fewer.core.learning import TrainingBatch
from fewer.core.operating_points import OperatingPoints
from fewer.core.packed import Packed
from fewer.core.phase import Pass
from fewer.methods.select import keep_top, rank_in_text

FULL = 10**6


class Untrained:
    """What the methods below have in common: their phases are given by the tests."""

    def phases(self) -> tuple[Phase, ...]:
        return ()


@dataclass(frozen=True)
class SoftExtract(Untrained):
    """PoWER-BERT's soft phase: the state of the token of rank r is scaled by a learned number."""

    def build(self, spec: ModelSpec) -> Policy:
        return SoftExtractPolicy(spec)


class SoftExtractPolicy(Policy):
    sites = frozenset({Site.MIDDLE})

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(spec.num_layers, 40))  # by layer and rank

    def needs(self, layer: int, phase: Phase) -> Needs:
        return Needs(from_others=True)

    def decide(self, view: View) -> Decision:
        assert view.evidence.from_others is not None
        rank = rank_in_text(view.evidence.from_others, view.tokens)
        return Decision(gate=self.scale[view.layer][rank].clamp(0, 1))


@dataclass(frozen=True)
class Lengths(Untrained):
    """Length-Adaptive Transformer: in each layer so many tokens stay, drawn anew for each pass."""

    def build(self, spec: ModelSpec) -> Policy:
        return LengthsPolicy(spec)


class LengthsPolicy(Policy):
    sites = frozenset({Site.MIDDLE})

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.lengths: Tensor
        self.register_buffer("lengths", torch.full((spec.num_layers,), FULL))
        self.drawn: list[list[int]] = []  # noted for the tests
        self.batches: list[TrainingBatch] = []

    def needs(self, layer: int, phase: Phase) -> Needs:
        return Needs(received=True)

    def begin(self, tokens: Packed, phase: Phase) -> list[int]:
        """Full, then the smallest, then a random configuration: the sandwich rule."""
        layers = len(self.lengths)
        if not phase.passes:
            lengths = self.lengths.tolist()
        elif phase.number == 0:
            lengths = [FULL] * layers
        elif phase.number == 1:
            lengths = [1] * layers
        else:
            lengths = torch.randint(1, 9, (layers,)).sort(descending=True).values.tolist()
        self.drawn.append(lengths)
        return lengths

    def decide(self, view: View) -> Decision:
        assert view.evidence.received is not None
        return Decision.keep(keep_top(view.evidence.received, view.tokens, view.state[view.layer]))

    def loss(self, batch: TrainingBatch) -> Tensor:
        self.batches.append(batch)
        if batch.teacher is None:
            return batch.logits.new_zeros(())
        student, teacher = (
            logits.log_softmax(-1) for logits in (batch.logits, batch.teacher.logits)
        )
        return nn.functional.kl_div(student, teacher, reduction="batchmean", log_target=True)

    def operating_points(self) -> OperatingPoints:
        never = (FULL,) * len(self.lengths)
        return OperatingPoints(
            (self.lengths,), never, (never, (8, 4, 2), (4, 2, 1)), lambda _: None
        )


SANDWICH = Phase(
    "sandwich",
    "compact",
    "all",
    1,
    1e-3,
    regularise=True,
    passes=(
        Pass("compact"),
        Pass("compact", task=0, teacher=0),
        Pass("compact", task=0, teacher=0),
        Pass("compact", task=0, teacher=0),
    ),
)


@dataclass(frozen=True)
class Cumulative(Untrained):
    """SpAtten's cascade: top-k on the attention received so far, over all layers."""

    share: float = 0.6

    def build(self, spec: ModelSpec) -> Policy:
        return CumulativePolicy(self.share)


class CumulativePolicy(Policy):
    sites = frozenset({Site.MIDDLE})

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def needs(self, layer: int, phase: Phase) -> Needs:
        return Needs(received=True)

    def decide(self, view: View) -> Decision:
        total, before = view.evidence.received, view.carried("score")
        assert total is not None
        total = total if before is None else total + before
        count = (view.lengths * self.share ** (view.layer + 1)).ceil()
        return replace(Decision.keep(keep_top(total, view.tokens, count)), carry={"score": total})


@dataclass(frozen=True)
class Bernoulli(Untrained):
    """TR-BERT's policy network: each token is kept with a learned probability, by REINFORCE."""

    def build(self, spec: ModelSpec) -> Policy:
        return BernoulliPolicy(spec)


class BernoulliPolicy(Policy):
    sites = frozenset({Site.AFTER})

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.network = nn.Linear(spec.hidden_size, 1)
        self.actions: list[tuple[Tensor, Tensor, Tensor]] = []  # state, action, text: for the tests

    def begin(self, tokens: Packed, phase: Phase) -> bool:
        """Whether to draw: at inference the likelier action is taken."""
        return phase.regularise

    def decide(self, view: View) -> Decision | None:
        if view.layer:
            return None
        tokens = view.tokens
        state = tokens.hidden.detach()
        logit = self.network(state).squeeze(1)
        probability = torch.sigmoid(logit)
        if not view.state:
            return Decision.keep(probability >= 0.5)
        keep = (torch.rand_like(probability) < probability) | tokens.roles.protected
        log_prob = -nn.functional.binary_cross_entropy_with_logits(
            logit, keep.float(), reduction="none"
        )
        free = ~tokens.roles.protected
        self.actions.append((state[free], keep[free].float(), tokens.sequence[free]))
        return replace(Decision.keep(keep), log_prob=tokens.count(log_prob * free))

    def loss(self, batch: TrainingBatch) -> Tensor:
        reward = -batch.losses.detach()
        assert batch.trace.log_prob is not None
        return -(reward * batch.trace.log_prob).mean()


@dataclass(frozen=True)
class PruneHeads(Untrained):
    """From the second layer on, texts of even number compute the first attention head only."""

    heads: tuple[int, ...] = (0,)

    def build(self, spec: ModelSpec) -> Policy:
        return PruneHeadsPolicy(self.heads, spec.heads)


class PruneHeadsPolicy(Policy):
    sites = frozenset({Site.AFTER})

    def __init__(self, kept: tuple[int, ...], heads: int) -> None:
        super().__init__()
        self.kept, self.heads = kept, heads

    def needs(self, layer: int, phase: Phase) -> Needs:
        return Needs(head_context=True)

    def decide(self, view: View) -> Decision | None:
        assert view.evidence.head_context is not None
        if view.layer:
            return None
        mask = torch.ones(view.tokens.grid[0], self.heads, dtype=torch.bool)
        # by the length, not by the number in the batch: a text alone is pruned in the same way
        short = view.lengths < 6
        mask[short] = torch.isin(torch.arange(self.heads), torch.tensor(self.kept))
        return Decision(heads=mask)


@dataclass(frozen=True)
class SkimFirst(Untrained):
    """Transkimmer's place: a predictor prunes tokens before the attention of the first layer."""

    salt: int = 1

    def build(self, spec: ModelSpec) -> Policy:
        return SkimFirstPolicy(spec, self.salt)


class SkimFirstPolicy(Policy):
    sites = frozenset({Site.BEFORE})

    def __init__(self, spec: ModelSpec, salt: int) -> None:
        super().__init__()
        self.network = nn.Linear(spec.hidden_size, 1)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(salt)
            self.network.weight.normal_(generator=generator)

    def decide(self, view: View) -> Decision | None:
        if view.layer:
            return None
        return Decision(gate=torch.sigmoid(self.network(view.tokens.hidden)).squeeze(1))


def policy_of(model: Any) -> Any:
    """Return the policy of an attached model."""
    return model.base_model.fewer.policy
