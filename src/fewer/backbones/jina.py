"""jina-embeddings-v3: XLM-R with rotary positions.

Its LoRA adapters of tasks are no part of the class of transformers; those that peft adds to the
linear maps are called.
"""

from __future__ import annotations

from typing import Any

from fewer.backbones.base import Backbone
from fewer.backbones.nomic_bert import rotary_backbone, rotary_layer
from fewer.backbones.post_norm import PostNormLayer
from fewer.backbones.rotary import Rotary

__all__ = ["bind"]


def bind(encoder: Any) -> Backbone:
    """Adapt a `JinaEmbeddingsV3Model`; positions start at 0."""
    return rotary_backbone(encoder, _layer)


def _layer(encoder: Any, module: Any, rotary: Rotary) -> PostNormLayer:
    mlp = module.mlp
    return rotary_layer(
        encoder,
        module,
        rotary,
        wide=mlp.fc1,
        activation=mlp.activation_fn,
        narrow=mlp.fc2,
    )
