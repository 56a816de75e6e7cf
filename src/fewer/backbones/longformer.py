"""Longformer: RoBERTa with attention to a window and the tokens of `global_attention_mask`.

Each layer has separate projections for these global tokens. Windows count original columns. Unlike
in transformers, texts are not padded to a multiple of the window.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fewer.backbones.base import Backbone, while_training
from fewer.backbones.bert import bert_backbone, bert_layer
from fewer.backbones.post_norm import PostNormLayer
from fewer.kernels import Pattern

__all__ = ["bind"]


def bind(encoder: Any) -> Backbone:
    """Adapt a `LongformerModel`."""
    from transformers.models.longformer.modeling_longformer import (
        LongformerBaseModelOutputWithPooling as Output,  # its heads read a field that others lack
    )

    layers = [_layer(encoder, module) for module in encoder.encoder.layer]
    backbone = bert_backbone(encoder, layers, padding_id=encoder.embeddings.padding_idx)
    return replace(backbone, output=Output, mask_marks_global=True)


def _layer(encoder: Any, module: Any) -> PostNormLayer:
    attention = module.attention.self
    dropout = while_training(attention, attention.dropout)
    return replace(
        bert_layer(encoder, module, attention.num_heads, dropout),
        pattern=Pattern(attention.one_sided_attn_window_size),
        global_projections=(attention.query_global, attention.key_global, attention.value_global),
    )
