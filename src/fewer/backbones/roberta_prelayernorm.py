"""RoBERTa-PreLayerNorm: RoBERTa with a norm before each block as well as after the embeddings."""

from __future__ import annotations

from typing import Any

from fewer.backbones.base import Backbone
from fewer.backbones.bert import refuse_decoder
from fewer.backbones.megatron_bert import pre_norm_backbone, pre_norm_layer
from fewer.backbones.post_norm import TableEmbedding

__all__ = ["bind"]


def bind(encoder: Any) -> Backbone:
    """Adapt a `RobertaPreLayerNormModel`."""
    refuse_decoder(encoder)
    tables = encoder.embeddings
    layers = [
        pre_norm_layer(
            encoder,
            module,
            module.attention.LayerNorm,
            module.intermediate.LayerNorm,
            narrow_dropout=module.output.dropout,
        )
        for module in encoder.encoder.layer
    ]
    embed = TableEmbedding(tables)
    return pre_norm_backbone(encoder, embed, layers, encoder.LayerNorm, tables.padding_idx)
