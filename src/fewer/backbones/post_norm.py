"""The layer and the embeddings of the BERT family, independent of module names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fewer.backbones.base import Tokens
from fewer.backbones.fast_linear import drop
from fewer.backbones.layer import TransformerLayer

__all__ = ["PostNormLayer", "TableEmbedding", "segment_of"]


@dataclass(frozen=True, kw_only=True)
class PostNormLayer(TransformerLayer):
    """References to one layer's modules: LN(x + attention(x)), then LN(y + ffn(y))."""

    output_norm: Any
    narrow_norm: Any

    @property
    def last_norm(self) -> Any:
        """The norm after the feed-forward block."""
        return self.narrow_norm

    def qkv(
        self, hidden: Tensor, position: Tensor, rows: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Project the states."""
        return self.project(hidden, position, rows)

    def attended(self, context: Tensor, hidden: Tensor) -> Tensor:
        """Compute LN(x + dropout(W context))."""
        normed: Tensor = self.output_norm(self.project_context(context) + hidden)
        return normed

    def ffn(self, hidden: Tensor) -> Tensor:
        """Compute LN(x + dropout(W2 act(W1 x)))."""
        normed: Tensor = self.narrow_norm(self.feed_forward(hidden) + hidden)
        return normed


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
