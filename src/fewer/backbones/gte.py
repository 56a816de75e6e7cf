"""GTE (gte-multilingual, gte-en-v1.5): Nomic-BERT with dropout of the gated activations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fewer.backbones.base import Backbone
from fewer.backbones.nomic_bert import rotary_backbone, rotary_layer
from fewer.backbones.post_norm import PostNormLayer
from fewer.backbones.rotary import Rotary

__all__ = ["bind"]


def bind(encoder: Any) -> Backbone:
    """Adapt a `GteModel`; some checkpoints have no segments."""
    return rotary_backbone(encoder, _layer)


def _layer(encoder: Any, module: Any, rotary: Rotary) -> PostNormLayer:
    return replace(rotary_layer(encoder, module, rotary), inner_dropout=module.mlp.dropout)
