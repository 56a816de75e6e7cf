"""Nomic-BERT: BERT's norms, rotary positions and a gated feed-forward block."""

from __future__ import annotations

from typing import Any

from fewer.backbones.base import Backbone, while_training
from fewer.backbones.live import embedding_rows, refuse_extras
from fewer.backbones.post_norm import PostNormLayer, TableEmbedding
from fewer.backbones.rotary import Rotary, bind_rotary

__all__ = ["attention_maps", "bind", "gated_maps", "rotary_backbone", "rotary_layer"]


def bind(encoder: Any) -> Backbone:
    """Adapt a `NomicBertModel`."""
    return rotary_backbone(encoder, rotary_layer)


def rotary_backbone(encoder: Any, adapt: Any) -> Backbone:
    """Adapt an encoder of these module names, each layer by `adapt(encoder, module, rotary)`."""
    config, tables = encoder.config, encoder.embeddings
    refuse_extras(encoder, tables, encoder.rotary_emb)
    rotary = bind_rotary(encoder.rotary_emb)
    modules = encoder.layers[: config.num_hidden_layers]  # the model reads it at each pass
    layers = [adapt(encoder, module, rotary) for module in modules]
    segments = tables.token_type_embeddings
    return Backbone(
        embed=TableEmbedding(tables, segments=segments is not None, positions=False),
        layers=layers,
        pool=encoder.pooler,
        hidden_size=config.hidden_size,
        heads=layers[0].heads if layers else config.num_attention_heads,
        vocabulary=embedding_rows(tables.word_embeddings, config.vocab_size),
        segments=0 if segments is None else embedding_rows(segments, config.type_vocab_size),
    )


def rotary_layer(encoder: Any, module: Any, rotary: Rotary, **ffn: Any) -> PostNormLayer:
    """Adapt a layer; `ffn` holds the modules of a feed-forward block of other names."""
    return PostNormLayer(
        **attention_maps(encoder, module),
        **(ffn or gated_maps(module.mlp)),
        rotary=rotary,
        output_dropout=module.post_attention_dropout,
        output_norm=module.post_attention_layernorm,
        narrow_dropout=module.post_mlp_dropout,
        narrow_norm=module.post_mlp_layernorm,
    )


def attention_maps(encoder: Any, module: Any) -> dict[str, Any]:
    """Return the maps of a layer's attention; refuse what its modules have beside their own."""
    attention = module.self_attn
    refuse_extras(encoder, module, attention, module.mlp)
    return {
        "heads": attention.q_proj.out_features // attention.head_dim,
        "query": attention.q_proj,
        "key": attention.k_proj,
        "value": attention.v_proj,
        "dropout": while_training(attention, float(attention.attention_dropout)),
        "output": attention.o_proj,
    }


def gated_maps(mlp: Any) -> dict[str, Any]:
    """Return the maps of a gated feed-forward block."""
    return {
        "wide": mlp.gate_proj,
        "activation": mlp.act_fn,
        "gate": mlp.up_proj,
        "narrow": mlp.down_proj,
    }
