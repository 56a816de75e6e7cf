"""What a policy may see (`View`) and all it may say (`Decision`)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int8
from torch import Tensor

if TYPE_CHECKING:
    from fewer.core.packed import Packed
    from fewer.core.trace import Trace

__all__ = ["Decision", "Fate", "Site", "View"]


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
class Decision:
    """A fate a token, and optionally a differentiable gate in [0, 1] (1 = stays) for training.

    The gate must round to the fate: `gate >= 0.5` exactly where the token is not `GONE`.
    """

    fate: Int8[Tensor, "T"]
    gate: Float[Tensor, "T"] | None = None
    freezes: bool = False  # whether any token may be FROZEN: spares the loop a look at the device

    @classmethod
    def keep(cls, mask: Bool[Tensor, "T"], gate: Tensor | None = None) -> Decision:
        """Let the tokens go where `mask` is False."""
        return cls(mask.to(torch.int8) * int(Fate.ACTIVE), gate)

    @classmethod
    def rest(cls, mask: Bool[Tensor, "T"]) -> Decision:
        """Freeze the tokens where `mask` is True."""
        return cls(int(Fate.ACTIVE) - mask.to(torch.int8), freezes=True)

    def __and__(self, other: Decision) -> Decision:
        """Combine two decisions: the lower fate wins, gates multiply."""
        gates = [gate for gate in (self.gate, other.gate) if gate is not None]
        gate = None if not gates else gates[0] if len(gates) == 1 else gates[0] * gates[1]
        return Decision(torch.minimum(self.fate, other.fate), gate, self.freezes or other.freezes)

    def sparing(self, protected: Bool[Tensor, "T"]) -> Decision:
        """Let the protected tokens stay, active, whatever was decided."""
        fate = self.fate.masked_fill(protected, int(Fate.ACTIVE))
        gate = None if self.gate is None else self.gate.masked_fill(protected, 1.0)
        return Decision(fate, gate, self.freezes)

    @property
    def stays(self) -> Bool[Tensor, "T"]:
        """Where tokens do not leave."""
        return self.fate > int(Fate.GONE)

    @property
    def rests(self) -> Bool[Tensor, "T"]:
        """Where tokens stay, but are no longer queries."""
        return self.fate == int(Fate.FROZEN)
