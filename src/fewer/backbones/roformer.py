"""RoFormer: BERT with rotary positions from a table, if asked of values too.

Attached models read `position_ids`, which transformers ignores in this family.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fewer.backbones.base import Backbone
from fewer.backbones.bert import bert_layer, refuse_decoder
from fewer.backbones.live import dropout_probability, embedding_rows, refuse_extras
from fewer.backbones.post_norm import PostNormLayer, TableEmbedding
from fewer.backbones.rotary import TableRotary

__all__ = ["bind"]


def bind(encoder: Any) -> Backbone:
    """Adapt a `RoFormerModel`, which has no pooler."""
    refuse_decoder(encoder)
    config, tables, stack = encoder.config, encoder.embeddings, encoder.encoder
    refuse_extras(encoder, stack, tables, stack.embed_positions)
    rotary = TableRotary(stack.embed_positions.weight)
    layers = [_layer(encoder, module, rotary) for module in stack.layer]
    projection = getattr(encoder, "embeddings_project", None)
    projections = () if projection is None else (projection,)
    return Backbone(
        embed=TableEmbedding(tables, projections, positions=False),
        layers=layers,
        hidden_size=config.hidden_size,
        heads=layers[0].heads if layers else config.num_attention_heads,
        projections=projections,
        vocabulary=embedding_rows(tables.word_embeddings, config.vocab_size),
        segments=embedding_rows(tables.token_type_embeddings, config.type_vocab_size),
        max_positions=embedding_rows(stack.embed_positions, config.max_position_embeddings),
    )


def _layer(encoder: Any, module: Any, rotary: TableRotary) -> PostNormLayer:
    attention = module.attention.self
    dropout = dropout_probability(encoder, attention.dropout)
    layer = bert_layer(encoder, module, attention.num_attention_heads, dropout)
    return replace(layer, rotary=rotary, rotates_values=bool(attention.rotary_value))
