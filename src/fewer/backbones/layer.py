"""What post-norm and pre-norm layers share: projections, feed-forward block and cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fewer.backbones.base import split_heads
from fewer.backbones.fast_linear import drop, in_rows, linear_together
from fewer.backbones.rotary import RotaryPositions
from fewer.core.cost import LayerCost, linear_flops
from fewer.kernels import Pattern
from fewer.kernels.cpu.guard import must_match_training
from fewer.kernels.relative import RelativeScores

__all__ = ["TransformerLayer", "repeat_heads"]


def _identity(hidden: Tensor) -> Tensor:
    return hidden


def _no_scores() -> None:
    """Return none: the scores of a layer do not depend on distances."""


@dataclass(frozen=True, kw_only=True)
class TransformerLayer:
    """References to one layer's modules, independent of their names in the model.

    Keys and values may have fewer heads than queries (grouped-query attention).
    """

    heads: int  # of the queries
    query: Any
    key: Any
    value: Any
    dropout: float  # of the attention probabilities; 0 in eval mode
    output: Any
    output_dropout: Callable[[Tensor], Tensor] = _identity
    wide: Any
    activation: Callable[[Tensor], Tensor]
    gate: Any = None  # a linear map beside `wide`, whose output multiplies the activations
    inner_dropout: Callable[[Tensor], Tensor] = _identity
    narrow: Any
    narrow_dropout: Callable[[Tensor], Tensor] = _identity
    pattern: Pattern | None = None
    query_scale: float = 1.0  # of the queries, which the kernel divides by sqrt(d)
    rotary: RotaryPositions | None = None  # of queries and keys
    rotates_values: bool = False
    relative_scores: Callable[[], RelativeScores | None] = _no_scores
    relative_flops: tuple[float, float] | None = None  # a token: of queries, of keys
    # query, key and value of global tokens, if they have separate projections
    global_projections: tuple[Any, Any, Any] | None = None

    def project(
        self, hidden: Tensor, position: Tensor, rows: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Apply three linear maps, in training as one product if they are plain; then rotate."""
        maps = self.query, self.key, self.value
        if rows is None and must_match_training(self.query):
            query, key, value = linear_together(hidden, *maps)
        else:
            queries = hidden if rows is None else hidden.index_select(0, rows)
            query = in_rows(self.query, queries)
            key, value = in_rows(self.key, hidden), in_rows(self.value, hidden)
        q = split_heads(query, self.heads)
        k, v = (states.unflatten(-1, (-1, q.shape[-1])) for states in (key, value))
        if self.query_scale != 1.0:
            q = q * self.query_scale
        if self.rotary is not None:
            q, k = self.rotary(q, position, rows), self.rotary(k, position)
            v = self.rotary(v, position) if self.rotates_values else v
        return q, repeat_heads(k, self.heads), repeat_heads(v, self.heads)

    @property
    def has_global_projections(self) -> bool:
        """Whether global tokens have projections of their own."""
        return self.global_projections is not None

    def project_global(self, hidden: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Apply the projections of global tokens."""
        assert self.global_projections is not None
        query, key, value = self.global_projections
        return (
            split_heads(in_rows(query, hidden.index_select(0, rows)), self.heads),
            split_heads(in_rows(key, hidden), self.heads),
            split_heads(in_rows(value, hidden), self.heads),
        )

    def project_context(self, context: Tensor) -> Tensor:
        """Compute dropout(W context)."""
        return drop(self.output_dropout, in_rows(self.output, context))

    def feed_forward(self, hidden: Tensor) -> Tensor:
        """Compute dropout(W2 act(W1 x)), with a gate W2 dropout(act(W1 x) * (W x))."""

        def compute(rows: Tensor) -> Tensor:
            inner = self.activation(self.wide(rows))
            if self.gate is not None:
                inner = inner * self.gate(rows)
            narrowed: Tensor = self.narrow(drop(self.inner_dropout, inner))
            return narrowed

        modules = self.wide, self.gate, self.activation, self.narrow
        return drop(self.narrow_dropout, in_rows(compute, hidden, *modules))

    @property
    def cost(self) -> LayerCost:
        """FLOPs of the matrices of this layer."""
        of_query, of_key = self.relative_flops or (0.0, 0.0)
        gate = () if self.gate is None else (self.gate,)
        return LayerCost(
            query=linear_flops(self.query) + of_query,
            key_value=linear_flops(self.key, self.value) + of_key,
            output=linear_flops(self.output),
            ffn=linear_flops(self.wide, *gate, self.narrow),
            pair=4.0 * self.query.out_features,
            score=float(self.heads),
            pattern=self.pattern,
            relative=self.relative_flops,
        )


def repeat_heads(states: Tensor, heads: int) -> Tensor:
    """Repeat each head of keys or values for the queries of its group."""
    groups = heads // states.shape[1]
    return states if groups == 1 else states.repeat_interleave(groups, dim=1)
