"""DistilBERT: BERT without segments and pooler, with other module names."""

from __future__ import annotations

from typing import Any

from fewer.backbones.base import Backbone
from fewer.backbones.live import dropout_probability, embedding_rows, refuse_extras
from fewer.backbones.post_norm import PostNormLayer, TableEmbedding

__all__ = ["bind"]


def bind(encoder: Any) -> Backbone:
    """Adapt a `DistilBertModel`."""
    config, tables = encoder.config, encoder.embeddings
    refuse_extras(encoder, encoder.transformer, tables)
    layers = [_layer(encoder, module) for module in encoder.transformer.layer]
    return Backbone(
        embed=TableEmbedding(tables, segments=False),
        layers=layers,
        hidden_size=config.dim,
        heads=layers[0].heads if layers else config.n_heads,
        vocabulary=embedding_rows(tables.word_embeddings, config.vocab_size),
        max_positions=embedding_rows(tables.position_embeddings, config.max_position_embeddings),
    )


def _layer(encoder: Any, module: Any) -> PostNormLayer:
    attention, ffn = module.attention, module.ffn
    refuse_extras(encoder, module, attention, ffn)
    return PostNormLayer(
        heads=attention.n_heads,
        query=attention.q_lin,
        key=attention.k_lin,
        value=attention.v_lin,
        dropout=dropout_probability(encoder, attention.dropout),
        output=attention.out_lin,  # no dropout after it
        output_norm=module.sa_layer_norm,
        wide=ffn.lin1,
        activation=ffn.activation,
        narrow=ffn.lin2,
        narrow_dropout=ffn.dropout,
        narrow_norm=module.output_layer_norm,
    )
