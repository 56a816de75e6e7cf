"""Longformer: RoBERTa that reads a window and the tokens of `global_attention_mask`.

Each layer has maps of its own for what these tokens ask and read. Windows count original columns;
nothing is padded to a multiple of the window, as it is in transformers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fewer.backbones.base import Backbone
from fewer.backbones.bert import bert_backbone, bert_layer
from fewer.kernels import Pattern

__all__ = ["bind"]


def bind(encoder: Any) -> Backbone:
    """View a `LongformerModel`."""
    from transformers.models.longformer.modeling_longformer import (
        LongformerBaseModelOutputWithPooling as Output,  # its heads read a field of its own
    )

    config = encoder.config
    windows = config.attention_window
    if isinstance(windows, int):
        windows = [windows] * config.num_hidden_layers
    layers = [
        replace(
            bert_layer(module, config.num_attention_heads, module.attention.self.dropout),
            pattern=Pattern(window // 2),  # the config counts both sides
            anchor_maps=_anchor_maps(module.attention.self),
        )
        for module, window in zip(encoder.encoder.layer, windows, strict=True)
    ]
    backbone = bert_backbone(encoder, layers, padding_id=config.pad_token_id)
    return replace(backbone, output=Output)


def _anchor_maps(own: Any) -> tuple[Any, Any, Any]:
    return own.query_global, own.key_global, own.value_global
