"""EuroBERT: Llama's layers without the causal mask: RMS norms before each block, grouped keys."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fewer.backbones.base import Backbone, Tokens
from fewer.backbones.live import embedding_rows, refuse_extras
from fewer.backbones.nomic_bert import attention_maps, gated_maps
from fewer.backbones.pre_norm import PreNormLayer
from fewer.backbones.rotary import Rotary, bind_rotary

__all__ = ["bind"]


def bind(encoder: Any) -> Backbone:
    """Adapt a `EuroBertModel`: no segments, no norm of the embeddings, a norm at the end."""
    config, table = encoder.config, encoder.embed_tokens
    refuse_extras(encoder, encoder.rotary_emb)
    rotary = bind_rotary(encoder.rotary_emb)
    modules = encoder.layers[: config.num_hidden_layers]  # the model reads it at each pass
    layers = [_layer(encoder, module, rotary) for module in modules]

    def embed(tokens: Tokens) -> Tensor:
        return tokens.words(table)

    return Backbone(
        embed=embed,
        layers=layers,
        finish=encoder.norm,
        hidden_size=config.hidden_size,
        heads=layers[0].heads if layers else config.num_attention_heads,
        vocabulary=embedding_rows(table, config.vocab_size),
    )


def _layer(encoder: Any, module: Any, rotary: Rotary) -> PreNormLayer:
    return PreNormLayer(
        **attention_maps(encoder, module),
        **gated_maps(module.mlp),
        rotary=rotary,
        attention_norm=module.input_layernorm,
        ffn_norm=module.post_attention_layernorm,
    )
