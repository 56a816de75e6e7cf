"""What every packed layer takes over from the layer that it packs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fewer.core.cost import LayerCost
from fewer.kernels import Pattern
from fewer.kernels.cpu.library import Isa

__all__ = ["PrepackedLayer"]


@dataclass(frozen=True, kw_only=True)
class PrepackedLayer:
    """A layer of a backbone, and the instruction set that its weights are packed for."""

    plain: Any  # the layer as the backbone has it
    isa: Isa

    @property
    def pattern(self) -> Pattern | None:
        """As the layer has it."""
        pattern: Pattern | None = self.plain.pattern
        return pattern

    @property
    def dropout(self) -> float:
        """None: the engine is for inference."""
        return 0.0

    @property
    def last_norm(self) -> Any:
        """As the layer has it."""
        return self.plain.last_norm

    @property
    def cost(self) -> LayerCost:
        """As the layer has it: packing changes no FLOP."""
        cost: LayerCost = self.plain.cost
        return cost
