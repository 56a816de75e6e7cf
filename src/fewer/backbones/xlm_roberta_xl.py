"""XLM-R XL: Megatron-BERT with RoBERTa's positions and no dropout after the feed-forward block."""

from __future__ import annotations

from typing import Any

from fewer.backbones.base import Backbone
from fewer.backbones.bert import refuse_decoder
from fewer.backbones.megatron_bert import BareEmbedding, pre_norm_backbone, pre_norm_layer

__all__ = ["bind"]


def bind(encoder: Any) -> Backbone:
    """Adapt an `XLMRobertaXLModel`."""
    refuse_decoder(encoder)
    stack, tables = encoder.encoder, encoder.embeddings
    layers = [
        pre_norm_layer(
            encoder,
            module,
            module.attention.self_attn_layer_norm,
            module.LayerNorm,
        )
        for module in stack.layer
    ]
    embed = BareEmbedding(tables)
    return pre_norm_backbone(encoder, embed, layers, stack.LayerNorm, tables.padding_idx)
