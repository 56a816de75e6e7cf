"""EuroBERT: Llama's layers without the causal mask: RMS norms before each block, grouped keys."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fewer.backbones.base import Backbone, Tokens, while_training
from fewer.backbones.live import embedding_rows, refuse_extras
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
    attention, mlp = module.self_attn, module.mlp
    refuse_extras(encoder, module, attention, mlp)
    return PreNormLayer(
        attention_norm=module.input_layernorm,
        heads=attention.q_proj.out_features // attention.head_dim,
        query=attention.q_proj,
        key=attention.k_proj,
        value=attention.v_proj,
        rotary=rotary,
        dropout=while_training(attention, float(attention.attention_dropout)),
        output=attention.o_proj,
        ffn_norm=module.post_attention_layernorm,
        wide=mlp.gate_proj,
        activation=mlp.act_fn,
        gate=mlp.up_proj,
        narrow=mlp.down_proj,
    )
