"""BigBird: BERT that reads blocks: its own and the two beside, the first and the last, drawn ones.

What differs from transformers, and why:

- A text of few blocks is read in full by a rule of its own length; there the longest text of a
  batch decides, and the model never goes back to blocks after one short batch.
- Drawn blocks are drawn in eval mode too; there block 0 is read again in their place, once for
  each, so training and inference compute different functions.
- Nothing is padded to whole blocks, and the state of no random generator is touched.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from fewer.backbones.base import Backbone, Tokens
from fewer.backbones.bert import bert_backbone, bert_layer, refuse_decoder
from fewer.backbones.post_norm import segment_of
from fewer.kernels import Pattern

__all__ = ["bind"]


def bind(encoder: Any) -> Backbone:
    """View a `BigBirdModel`."""
    config = encoder.config
    refuse_decoder(config)
    sparse = config.attention_type == "block_sparse"
    layers = [
        replace(
            bert_layer(module, config.num_attention_heads, config.attention_probs_dropout_prob),
            pattern=Pattern.bigbird(config.block_size, config.num_random_blocks, number)
            if sparse
            else None,
        )
        for number, module in enumerate(encoder.encoder.layer)
    ]
    pool = None if encoder.pooler is None else _Pool(encoder.pooler, encoder.activation)
    embed = _Embedding(encoder.embeddings, config.hidden_size)
    return replace(bert_backbone(encoder, layers), pool=pool, embed=embed)


@dataclass(frozen=True)
class _Embedding:
    """Add up word (scaled, if the model says so), segment and position; drop out, then norm."""

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
    """The pooler's map of the first token, and its activation."""

    pooler: Any
    activation: Any

    def __call__(self, hidden: Tensor) -> Tensor:
        pooled: Tensor = self.activation(self.pooler(hidden[:, 0]))
        return pooled
