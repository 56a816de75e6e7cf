"""What a policy may see (`View`) and all it may say (`Decision`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, IntEnum
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int, Int8
from torch import Tensor

if TYPE_CHECKING:
    from fewer.core.packed import Packed
    from fewer.core.trace import Trace

__all__ = ["Decision", "ExitOutput", "Fate", "Site", "View"]


class Site(Enum):
    """Where in a layer a policy is asked."""

    MIDDLE = "middle"  # after attention, before the feed-forward network
    AFTER = "after"  # after the feed-forward network


class Fate(IntEnum):
    """What becomes of a token. The lower of two fates wins."""

    GONE = 0
    FROZEN = 1  # rests: still key and value, no longer query
    ACTIVE = 2


@dataclass(frozen=True)
class View:
    """What a policy may see when it decides."""

    layer: int
    num_layers: int
    site: Site
    tokens: Packed  # `tokens.received` is there if the policy asked for it
    trace: Trace  # the layers before this one
    gated: bool = True  # whether a gate is of use: not where the gone leave at once


@dataclass(frozen=True)
class ExitOutput:
    """What a head of one layer said of some rows: texts, blocks, or tokens of the caller's grid."""

    layer: int
    rows: Int[Tensor, "R"]  # texts of the batch, slots of the grid, or blocks of it; ascending
    logits: Float[Tensor, "R C"]
    features: Float[Tensor, "R F"] | None = None  # what the logits were made from
    final: Bool[Tensor, "R"] | None = None  # whose answer this is; None: nobody's

    def of(self, rows: Int[Tensor, "R2"]) -> ExitOutput:
        """Look up what was said of these rows, all of which were spoken of."""
        if rows.numel() == self.rows.numel():
            return self
        scatter_rows = torch.searchsorted(self.rows, rows)
        return replace(
            self,
            rows=rows,
            logits=self.logits[scatter_rows],
            features=None if self.features is None else self.features[scatter_rows],
            final=None if self.final is None else self.final[scatter_rows],
        )


@dataclass(frozen=True)
class Decision:
    """A fate a token, texts that leave with an answer, a differentiable gate for training.

    The gate is in [0, 1] (1 = stays) and must round to the fate: `gate >= 0.5` exactly where the
    token is not `GONE`.
    """

    fate: Int8[Tensor, "T"] | None = None  # None: all ACTIVE
    gate: Float[Tensor, "T"] | None = None
    freezes: bool = False  # whether any token may be FROZEN: spares the loop a look at the device
    leaves: Bool[Tensor, "B"] | None = None  # texts that are answered: all of their tokens go
    exit_outputs: tuple[ExitOutput, ...] = ()  # what the policy's own heads said
    head_flops: Float[Tensor, "B"] | None = None  # FLOPs of these heads, for each text
    predictor_outputs: tuple[
        ExitOutput, ...
    ] = ()  # what the policy's predictors said, which answers nothing

    @classmethod
    def keep(cls, mask: Bool[Tensor, "T"], gate: Tensor | None = None) -> Decision:
        """Let the tokens go where `mask` is False."""
        return cls(mask.to(torch.int8) * int(Fate.ACTIVE), gate)

    @classmethod
    def rest(cls, mask: Bool[Tensor, "T"]) -> Decision:
        """Freeze the tokens where `mask` is True."""
        return cls(int(Fate.ACTIVE) - mask.to(torch.int8), freezes=True)

    def __and__(self, other: Decision) -> Decision:
        """Combine two decisions: the lower fate wins, gates multiply, whoever may leave leaves."""
        return Decision(
            _joined(self.fate, other.fate, torch.minimum),
            _joined(self.gate, other.gate, torch.mul),
            self.freezes or other.freezes,
            _joined(self.leaves, other.leaves, torch.logical_or),
            self.exit_outputs + other.exit_outputs,
            _joined(self.head_flops, other.head_flops, torch.add),
            self.predictor_outputs + other.predictor_outputs,
        )

    def settled(self, tokens: Packed) -> Decision:
        """Apply what holds for every method, in this order.

        The protected do not go, though they may rest; a text that leaves takes all its tokens
        along, and so does one that has nobody left who reads.
        """
        fate, gate = self.fate, self.gate
        if fate is not None:
            spared = tokens.protected & (fate == int(Fate.GONE))
            fate = fate.masked_fill(spared, int(Fate.ACTIVE))
            gate = None if gate is None else gate.masked_fill(tokens.protected, 1.0)
        leaves = self.leaves
        if self.freezes and fate is not None:
            reads = (fate == int(Fate.ACTIVE)).float()
            for still in (tokens.active, tokens.alive):
                reads = reads if still is None else reads * still
            leaves = _joined(leaves, tokens.count(reads) == 0, torch.logical_or)
        if leaves is not None:
            leaving = leaves[tokens.sequence]
            if fate is None:
                fate = torch.full_like(leaving, int(Fate.ACTIVE), dtype=torch.int8)
            fate = fate.masked_fill(leaving, int(Fate.GONE))
            gate = None if gate is None else gate.masked_fill(leaving, 0.0)
        return replace(self, fate=fate, gate=gate, leaves=leaves)

    @property
    def stays(self) -> Bool[Tensor, "T"] | None:
        """Where tokens do not leave; `None` when nobody does."""
        return None if self.fate is None else self.fate > int(Fate.GONE)

    @property
    def rests(self) -> Bool[Tensor, "T"]:
        """Where tokens stay, but are no longer queries. Only of a decision that `freezes`."""
        assert self.fate is not None
        return self.fate == int(Fate.FROZEN)


def _joined(
    one: Tensor | None, other: Tensor | None, how: Callable[[Tensor, Tensor], Tensor]
) -> Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return how(one, other)
