"""The layer and the embeddings of the BERT family, independent of module names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fewer.backbones.base import Tokens, split_heads
from fewer.backbones.fast_linear import drop, in_rows, linear_together
from fewer.core.cost import LayerCost, linear_flops
from fewer.kernels import Pattern
from fewer.kernels.cpu.guard import must_match_training
from fewer.kernels.relative import RelativeScores

__all__ = ["PostNormLayer", "TableEmbedding", "segment_of"]


def _identity(hidden: Tensor) -> Tensor:
    return hidden


def _no_scores() -> None:
    """Return none: the scores of a layer do not depend on distances."""


@dataclass(frozen=True, kw_only=True)
class PostNormLayer:
    """References to one layer's modules: LN(x + attention(x)), then LN(y + ffn(y))."""

    heads: int
    query: Any
    key: Any
    value: Any
    dropout: float  # of the attention probabilities; 0 in eval mode
    output: Any
    output_dropout: Callable[[Tensor], Tensor] = _identity
    output_norm: Any
    wide: Any
    activation: Callable[[Tensor], Tensor]
    narrow: Any
    narrow_dropout: Callable[[Tensor], Tensor] = _identity
    narrow_norm: Any
    pattern: Pattern | None = None
    query_scale: float = 1.0  # of the queries, which the kernel divides by sqrt(d)
    relative_scores: Callable[[], RelativeScores | None] = _no_scores
    relative_flops: tuple[float, float] | None = None  # a token: of queries, of keys
    # query, key and value of global tokens, if they have separate projections
    global_projections: tuple[Any, Any, Any] | None = None

    @property
    def last_norm(self) -> Any:
        """The norm after the feed-forward block."""
        return self.narrow_norm

    def qkv(
        self, hidden: Tensor, position: Tensor, rows: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Apply three linear maps; in training as one product, if they are plain."""
        if rows is None and must_match_training(self.query):
            projected = linear_together(hidden, self.query, self.key, self.value)
            query, key, value = (split_heads(states, self.heads) for states in projected)
            return self._scaled(query), key, value
        queries = hidden if rows is None else hidden.index_select(0, rows)
        return (
            self._scaled(split_heads(in_rows(self.query, queries), self.heads)),
            split_heads(in_rows(self.key, hidden), self.heads),
            split_heads(in_rows(self.value, hidden), self.heads),
        )

    def _scaled(self, query: Tensor) -> Tensor:
        return query if self.query_scale == 1.0 else query * self.query_scale

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

    def attended(self, context: Tensor, hidden: Tensor) -> Tensor:
        """Compute LN(x + dropout(W context))."""
        projected = in_rows(self.output, context)
        normed: Tensor = self.output_norm(drop(self.output_dropout, projected) + hidden)
        return normed

    def ffn(self, hidden: Tensor) -> Tensor:
        """Compute LN(x + dropout(W2 act(W1 x)))."""

        def feed_forward(rows: Tensor) -> Tensor:
            return self.narrow(self.activation(self.wide(rows)))  # type: ignore[no-any-return]

        inner = in_rows(feed_forward, hidden, self.wide, self.activation, self.narrow)
        normed: Tensor = self.narrow_norm(drop(self.narrow_dropout, inner) + hidden)
        return normed

    @property
    def cost(self) -> LayerCost:
        """FLOPs of the matrices of this layer."""
        of_query, of_key = self.relative_flops or (0.0, 0.0)
        return LayerCost(
            query=linear_flops(self.query) + of_query,
            key_value=linear_flops(self.key, self.value) + of_key,
            output=linear_flops(self.output),
            ffn=linear_flops(self.wide, self.narrow),
            pair=4.0 * self.query.out_features,
            score=float(self.heads),
            pattern=self.pattern,
            relative=self.relative_flops,
        )


@dataclass(frozen=True)
class TableEmbedding:
    """Sum word, segment and position embeddings, then norm, dropout and projections."""

    tables: Any  # the embeddings module of the model
    projections: tuple[nn.Module, ...] = ()
    segments: bool = True
    positions: bool = True

    def __call__(self, tokens: Tokens) -> Tensor:
        """Embed packed tokens."""
        tables = self.tables
        summed = tokens.words(tables.word_embeddings)
        if self.segments:
            summed = summed + tables.token_type_embeddings(segment_of(tokens))
        if self.positions:
            summed = summed + tables.position_embeddings(tokens.position)
        hidden: Tensor = drop(tables.dropout, tables.LayerNorm(summed))
        for projection in self.projections:
            hidden = projection(hidden)
        return hidden


def segment_of(tokens: Tokens) -> Tensor:
    """Return the segment of each token; 0 if there are none."""
    return torch.zeros_like(tokens.position) if tokens.segment is None else tokens.segment
