"""ALBERT: few layer modules, each run several times; narrow embeddings."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fewer.backbones.base import Backbone
from fewer.backbones.live import dropout_probability, embedding_rows, refuse_extras
from fewer.backbones.post_norm import PostNormLayer, TableEmbedding

__all__ = ["bind"]


def bind(encoder: Any) -> Backbone:
    """View an `AlbertModel`: as many layers as there are turns, some of the same modules."""
    config, tables, stack = encoder.config, encoder.embeddings, encoder.encoder
    groups, live = stack.albert_layer_groups, stack.config  # it is read at each pass
    turns = [  # rounds as the model does
        groups[int(turn / (live.num_hidden_layers / live.num_hidden_groups))]
        for turn in range(live.num_hidden_layers)
    ]
    refuse_extras(encoder, stack, tables, *groups)

    def pool(states: Tensor) -> Tensor:
        pooled: Tensor = encoder.pooler_activation(encoder.pooler(states[:, 0]))
        return pooled

    return Backbone(
        embed=TableEmbedding(tables, (stack.embedding_hidden_mapping_in,)),
        layers=[_layer(encoder, module) for group in turns for module in group.albert_layers],
        pool=pool if encoder.pooler is not None else None,
        hidden_size=config.hidden_size,
        heads=groups[0].albert_layers[0].attention.num_attention_heads,
        projections=(stack.embedding_hidden_mapping_in,),
        vocabulary=embedding_rows(tables.word_embeddings, config.vocab_size),
        segments=embedding_rows(tables.token_type_embeddings, config.type_vocab_size),
        max_positions=embedding_rows(tables.position_embeddings, config.max_position_embeddings),
    )


def _layer(encoder: Any, module: Any) -> PostNormLayer:
    own = module.attention
    refuse_extras(encoder, module, own, module.dropout)  # the last is never called
    return PostNormLayer(
        heads=own.num_attention_heads,
        query=own.query,
        key=own.key,
        value=own.value,
        dropout=dropout_probability(encoder, own.attention_dropout),
        output=own.dense,
        output_dropout=own.output_dropout,
        output_norm=own.LayerNorm,
        wide=module.ffn,
        activation=module.activation,
        narrow=module.ffn_output,  # no dropout after it
        narrow_norm=module.full_layer_layer_norm,
    )
