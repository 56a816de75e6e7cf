"""ALBERT: layer modules shared by several layers, and factorised embeddings."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fewer.backbones.base import Backbone
from fewer.backbones.live import dropout_probability, embedding_rows, refuse_extras
from fewer.backbones.post_norm import PostNormLayer, TableEmbedding

__all__ = ["bind"]


def bind(encoder: Any) -> Backbone:
    """Adapt an `AlbertModel`: one layer per pass over a group, so layers share modules."""
    config, tables, stack = encoder.config, encoder.embeddings, encoder.encoder
    groups, sizes = stack.albert_layer_groups, stack.config  # the model reads it at each pass
    sequence = [  # rounded as in the model
        groups[int(index / (sizes.num_hidden_layers / sizes.num_hidden_groups))]
        for index in range(sizes.num_hidden_layers)
    ]
    refuse_extras(encoder, stack, tables, *groups)

    def pool(states: Tensor) -> Tensor:
        pooled: Tensor = encoder.pooler_activation(encoder.pooler(states[:, 0]))
        return pooled

    return Backbone(
        embed=TableEmbedding(tables, (stack.embedding_hidden_mapping_in,)),
        layers=[_layer(encoder, module) for group in sequence for module in group.albert_layers],
        pool=pool if encoder.pooler is not None else None,
        hidden_size=config.hidden_size,
        heads=groups[0].albert_layers[0].attention.num_attention_heads,
        projections=(stack.embedding_hidden_mapping_in,),
        vocabulary=embedding_rows(tables.word_embeddings, config.vocab_size),
        segments=embedding_rows(tables.token_type_embeddings, config.type_vocab_size),
        max_positions=embedding_rows(tables.position_embeddings, config.max_position_embeddings),
    )


def _layer(encoder: Any, module: Any) -> PostNormLayer:
    attention = module.attention
    refuse_extras(encoder, module, attention, module.dropout)  # the last is never called
    return PostNormLayer(
        heads=attention.num_attention_heads,
        query=attention.query,
        key=attention.key,
        value=attention.value,
        dropout=dropout_probability(encoder, attention.attention_dropout),
        output=attention.dense,
        output_dropout=attention.output_dropout,
        output_norm=attention.LayerNorm,
        wide=module.ffn,
        activation=module.activation,
        narrow=module.ffn_output,  # no dropout after it
        narrow_norm=module.full_layer_layer_norm,
    )
