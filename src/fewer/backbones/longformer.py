"""Longformer: RoBERTa that reads a window and the tokens of `global_attention_mask`.

Each layer has maps of its own for what these tokens ask and read. Windows count original columns;
nothing is padded to a multiple of the window, as it is in transformers.
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
    """View a `LongformerModel`."""
    from transformers.models.longformer.modeling_longformer import (
        LongformerBaseModelOutputWithPooling as Output,  # its heads read a field of its own
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
