"""The properties that a prepacked layer shares with its plain layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fewer.backbones.base import split_heads
from fewer.backbones.layer import repeat_heads
from fewer.backbones.rotary import FixedRotaryPositions
from fewer.core.cost import LayerCost
from fewer.kernels import Pattern
from fewer.kernels.cpu.library import Isa
from fewer.kernels.cpu.ops import Norm, Weight, feed_forward, linear
from fewer.kernels.relative import RelativeScores

__all__ = ["PrepackedLayer"]


@dataclass(frozen=True, kw_only=True)
class PrepackedLayer:
    """A prepacked layer of a backbone, for one instruction set."""

    plain: Any  # the layer of the backbone
    isa: Isa
    projections: Weight  # query, key, value
    query_width: int  # outputs of the queries; keys and values share the rest
    rotary: FixedRotaryPositions | None = None
    rotates_values: bool = False
    output: Weight
    wide: Weight
    activation: str
    gate: Weight | None = None
    narrow: Weight

    def project(
        self,
        hidden: Tensor,
        position: Tensor,
        rows: Tensor | None,
        input_norm: Norm | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Project with one fused map, queries separately if only some rows are; then rotate."""

        def project(states: Tensor, weight: Weight) -> Tensor:
            return linear(states, weight, input_norm=input_norm, dtype=self.isa.attention_dtype)

        weight, width = self.projections, self.query_width
        keys = (weight.struct.n - width) // 2
        keys_values = None if rows is None else weight.drop_first(width)
        if rows is None or keys_values is None:
            states = project(hidden, weight)
            self._rotate(states, position, width + keys)
            q, k, v = states.split((width, keys, keys), dim=1)
            q = q if rows is None else q.index_select(0, rows)
        else:
            q = project(hidden.index_select(0, rows), weight.take_first(width))
            self._rotate(q, position.index_select(0, rows), width)
            states = project(hidden, keys_values)
            self._rotate(states, position, keys)
            k, v = states.split(keys, dim=1)
        q = split_heads(q, self.plain.heads)
        k, v = (states.unflatten(-1, (-1, q.shape[-1])) for states in (k, v))
        return q, repeat_heads(k, q.shape[1]), repeat_heads(v, q.shape[1])

    def _rotate(self, states: Tensor, position: Tensor, columns: int) -> None:
        """Rotate the first columns, or all if values are rotated too."""
        if self.rotary is not None:
            states = states if self.rotates_values else states[:, :columns]
            head_width = self.query_width // self.plain.heads
            self.rotary.rotate(states, head_width, position, self.isa)

    def feed_forward(
        self, hidden: Tensor, *, input_norm: Norm | None = None, norm: Norm | None = None
    ) -> Tensor:
        """Compute norm(x + W2 (act(W1 y) * gate(y))), where y is input_norm(x), in one call."""
        weights = self.wide, self.narrow
        return feed_forward(
            hidden, *weights, norm, self.activation, gate=self.gate, input_norm=input_norm
        )

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
