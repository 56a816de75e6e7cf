"""Megatron-BERT: BERT with its norms before each block, and one at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fewer.backbones.base import Backbone, Tokens
from fewer.backbones.bert import refuse_decoder
from fewer.backbones.fast_linear import drop
from fewer.backbones.live import dropout_probability, embedding_rows, refuse_extras
from fewer.backbones.post_norm import segment_of
from fewer.backbones.pre_norm import PreNormLayer

__all__ = ["BareEmbedding", "bind", "pre_norm_backbone", "pre_norm_layer"]


def bind(encoder: Any) -> Backbone:
    """Adapt a `MegatronBertModel`."""
    refuse_decoder(encoder)
    layers = [
        pre_norm_layer(
            encoder, module, module.attention.ln, module.ln, narrow_dropout=module.output.dropout
        )
        for module in encoder.encoder.layer
    ]
    embed = BareEmbedding(encoder.embeddings)
    return pre_norm_backbone(encoder, embed, layers, encoder.encoder.ln)


def pre_norm_backbone(
    encoder: Any,
    embed: Callable[[Tokens], Tensor],
    layers: Sequence[PreNormLayer],
    finish: Any,
    padding_id: int | None = None,
) -> Backbone:
    """Adapt an encoder with embeddings and pooler of BERT's names."""
    config, tables = encoder.config, encoder.embeddings
    refuse_extras(encoder, encoder.encoder, tables)
    return Backbone(
        embed=embed,
        layers=layers,
        finish=finish,
        pool=encoder.pooler,
        hidden_size=config.hidden_size,
        heads=layers[0].heads if layers else config.num_attention_heads,
        vocabulary=embedding_rows(tables.word_embeddings, config.vocab_size),
        segments=embedding_rows(tables.token_type_embeddings, config.type_vocab_size),
        max_positions=embedding_rows(tables.position_embeddings, config.max_position_embeddings),
        padding_id=padding_id,
    )


def pre_norm_layer(
    encoder: Any, module: Any, attention_norm: Any, ffn_norm: Any, **dropout: Any
) -> PreNormLayer:
    """Adapt a layer with linear maps of BERT's names; some have a `narrow_dropout`."""
    attention, output = module.attention.self, module.attention.output
    refuse_extras(encoder, module, module.attention, attention, output)
    refuse_extras(encoder, module.intermediate, module.output)
    return PreNormLayer(
        attention_norm=attention_norm,
        heads=attention.num_attention_heads,
        query=attention.query,
        key=attention.key,
        value=attention.value,
        dropout=dropout_probability(encoder, attention.dropout),
        output=output.dense,
        output_dropout=output.dropout,
        ffn_norm=ffn_norm,
        wide=module.intermediate.dense,
        activation=module.intermediate.intermediate_act_fn,
        narrow=module.output.dense,
        **dropout,
    )


@dataclass(frozen=True)
class BareEmbedding:
    """Sum word, segment and position embeddings, then dropout: no norm."""

    tables: Any  # the embeddings module of the model

    def __call__(self, tokens: Tokens) -> Tensor:
        """Embed packed tokens."""
        tables = self.tables
        summed = tokens.words(tables.word_embeddings)
        summed = summed + tables.token_type_embeddings(segment_of(tokens))
        return drop(tables.dropout, summed + tables.position_embeddings(tokens.position))
