"""The properties that a prepacked layer shares with its plain layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fewer.core.cost import LayerCost
from fewer.kernels import Pattern
from fewer.kernels.cpu.library import Isa
from fewer.kernels.relative import RelativeScores

__all__ = ["PrepackedLayer"]


@dataclass(frozen=True, kw_only=True)
class PrepackedLayer:
    """A prepacked layer of a backbone, for one instruction set."""

    plain: Any  # the layer of the backbone
    isa: Isa

    @property
    def pattern(self) -> Pattern | None:
        """The pattern of the plain layer."""
        pattern: Pattern | None = self.plain.pattern
        return pattern

    @property
    def dropout(self) -> float:
        """0: the engine is for inference."""
        return 0.0

    @property
    def last_norm(self) -> Any:
        """The last norm of the plain layer."""
        return self.plain.last_norm

    def relative_scores(self) -> RelativeScores | None:
        """Those of the plain layer."""
        relative: RelativeScores | None = self.plain.relative_scores()
        return relative

    @property
    def has_global_projections(self) -> bool:
        """Those of the plain layer."""
        has: bool = self.plain.has_global_projections
        return has

    def project_global(self, hidden: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Apply the projections of the plain layer; return the dtype of the kernels."""
        projected = self.plain.project_global(hidden.to(self.plain.query.weight.dtype), rows)
        q, k, v = (states.to(self.isa.attention_dtype) for states in projected)
        return q, k, v

    @property
    def cost(self) -> LayerCost:
        """The cost of the plain layer: packing does not change FLOPs."""
        cost: LayerCost = self.plain.cost
        return cost
