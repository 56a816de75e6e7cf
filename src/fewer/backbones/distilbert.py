"""DistilBERT: BERT without segments and pooler, under other names."""

from __future__ import annotations

from typing import Any

from fewer.backbones.base import Backbone, while_training
from fewer.backbones.post_norm import PostNormLayer, TableEmbedding

__all__ = ["bind"]


def bind(encoder: Any) -> Backbone:
    """View a `DistilBertModel`."""
    config, tables = encoder.config, encoder.embeddings
    return Backbone(
        embed=TableEmbedding(tables, segments=False),
        layers=[_layer(module, config.n_heads) for module in encoder.transformer.layer],
        hidden_size=config.dim,
        heads=config.n_heads,
        vocabulary=config.vocab_size,
        max_positions=tables.position_embeddings.num_embeddings,
    )


def _layer(module: Any, heads: int) -> PostNormLayer:
    own, ffn = module.attention, module.ffn
    return PostNormLayer(
        heads=heads,
        query=own.q_lin,
        key=own.k_lin,
        value=own.v_lin,
        dropout=while_training(own, own.dropout.p),
        output=own.out_lin,  # no dropout after it
        output_norm=module.sa_layer_norm,
        wide=ffn.lin1,
        activation=ffn.activation,
        narrow=ffn.lin2,
        narrow_dropout=ffn.dropout,
        narrow_norm=module.output_layer_norm,
    )
