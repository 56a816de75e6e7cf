"""BigBird: BERT with attention to neighbouring, first, last and random blocks.

Differences from transformers, and why:

- The length of a text decides whether it has full attention. In transformers the longest text of a
  batch decides, and after one short batch the model never returns to blocks.
- Random blocks are read in eval mode too. transformers then reads block 0 once for each of them, so
  training and inference compute different functions.
- No text is padded to whole blocks, and the state of random generators does not change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from fewer.backbones.base import Backbone, Tokens
from fewer.backbones.bert import bert_backbone, bert_layer, refuse_decoder
from fewer.backbones.live import dropout_probability
from fewer.backbones.post_norm import PostNormLayer, segment_of
from fewer.kernels import Pattern

__all__ = ["bind"]


def bind(encoder: Any) -> Backbone:
    """Adapt a `BigBirdModel`."""
    refuse_decoder(encoder)
    layers = [_layer(encoder, module) for module in encoder.encoder.layer]
    pool = None if encoder.pooler is None else _Pool(encoder.pooler, encoder.activation)
    embed = _Embedding(encoder.embeddings, encoder.embeddings.hidden_size)
    return replace(bert_backbone(encoder, layers), pool=pool, embed=embed, strict_mask=True)


def _layer(encoder: Any, module: Any) -> PostNormLayer:
    attention = module.attention.self
    if module.attention_type != "block_sparse":
        dropout = dropout_probability(encoder, attention.dropout)
        return bert_layer(encoder, module, attention.num_attention_heads, dropout)
    return replace(
        bert_layer(encoder, module, attention.num_attention_heads, dropout=0.0),
        pattern=Pattern.bigbird(attention.block_size, attention.num_random_blocks, attention.seed),
    )


@dataclass(frozen=True)
class _Embedding:
    """Sum word (scaled, if so configured), segment and position embeddings; dropout, then norm."""

    tables: Any
    width: int

    def __call__(self, tokens: Tokens) -> Tensor:
        tables = self.tables
        words = tokens.words(tables.word_embeddings)
        words = words * self.width**0.5 if tables.rescale_embeddings else words
        summed = words + tables.token_type_embeddings(segment_of(tokens))
        summed = summed + tables.position_embeddings(tokens.position)
        hidden: Tensor = tables.LayerNorm(tables.dropout(summed))
        return hidden


@dataclass(frozen=True)
class _Pool:
    """The pooler's projection of the first token, and its activation."""

    pooler: Any
    activation: Any

    def __call__(self, hidden: Tensor) -> Tensor:
        pooled: Tensor = self.activation(self.pooler(hidden[:, 0]))
        return pooled
