"""ALBERT: few layer modules, each run several times; narrow embeddings."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fewer.backbones.base import Backbone, while_training
from fewer.backbones.post_norm import PostNormLayer, TableEmbedding

__all__ = ["bind"]


def bind(encoder: Any) -> Backbone:
    """View an `AlbertModel`: as many layers as there are turns, some of the same modules."""
    config, tables, stack = encoder.config, encoder.embeddings, encoder.encoder
    groups = stack.albert_layer_groups
    turns = [
        groups[int(turn / (config.num_hidden_layers / len(groups)))]  # rounds as the model does
        for turn in range(config.num_hidden_layers)
    ]

    def pool(states: Tensor) -> Tensor:
        pooled: Tensor = encoder.pooler_activation(encoder.pooler(states[:, 0]))
        return pooled

    return Backbone(
        embed=TableEmbedding(tables, (stack.embedding_hidden_mapping_in,)),
        layers=[
            _layer(module, config.num_attention_heads)
            for group in turns
            for module in group.albert_layers
        ],
        pool=pool if encoder.pooler is not None else None,
        hidden_size=config.hidden_size,
        heads=config.num_attention_heads,
        projections=(stack.embedding_hidden_mapping_in,),
        vocabulary=config.vocab_size,
        segments=config.type_vocab_size,
        max_positions=tables.position_embeddings.num_embeddings,
    )


def _layer(module: Any, heads: int) -> PostNormLayer:
    own = module.attention
    return PostNormLayer(
        heads=heads,
        query=own.query,
        key=own.key,
        value=own.value,
        dropout=while_training(own, own.attention_dropout.p),
        output=own.dense,
        output_dropout=own.output_dropout,
        output_norm=own.LayerNorm,
        wide=module.ffn,
        activation=module.activation,
        narrow=module.ffn_output,  # no dropout after it
        narrow_norm=module.full_layer_layer_norm,
    )
