"""BERT and what is built like it: MiniLM, RoBERTa, XLM-R, CamemBERT, ELECTRA."""

from __future__ import annotations

from typing import Any

from torch import nn

from fewer.backbones.base import Backbone
from fewer.backbones.live import dropout_probability, embedding_rows, refuse_extras
from fewer.backbones.post_norm import PostNormLayer, TableEmbedding

__all__ = ["bert_backbone", "bert_layer", "bind", "bind_electra", "bind_roberta", "refuse_decoder"]


def bind(encoder: Any) -> Backbone:
    """View a `BertModel`."""
    return _bind(encoder)


def bind_roberta(encoder: Any) -> Backbone:
    """View a `RobertaModel` or its kin: positions start after the padding index."""
    return _bind(encoder, padding_id=encoder.embeddings.padding_idx)


def bind_electra(encoder: Any) -> Backbone:
    """View an `ElectraModel`: narrow embeddings pass through a projection."""
    projection = getattr(encoder, "embeddings_project", None)
    return _bind(encoder, projections=() if projection is None else (projection,))


def _bind(
    encoder: Any, projections: tuple[nn.Module, ...] = (), padding_id: int | None = None
) -> Backbone:
    refuse_decoder(encoder)
    layers = []
    for module in encoder.encoder.layer:
        attention = module.attention.self
        dropout = dropout_probability(encoder, attention.dropout)
        layers.append(bert_layer(encoder, module, attention.num_attention_heads, dropout))
    return bert_backbone(encoder, layers, projections, padding_id)


def refuse_decoder(encoder: Any) -> None:
    """Raise `ValueError` for a model that could be an encoder, but is, or was made, a decoder."""
    config = encoder.config
    made = any(layer.is_decoder for layer in encoder.encoder.layer)
    if made or config.is_decoder or config.add_cross_attention:
        raise ValueError(
            "this model is configured as a decoder (is_decoder or add_cross_attention); fewer "
            "reads encoders"
        )


def bert_backbone(
    encoder: Any,
    layers: list[PostNormLayer],
    projections: tuple[nn.Module, ...] = (),
    padding_id: int | None = None,
) -> Backbone:
    """View an encoder whose embeddings and pooler are called as BERT's."""
    config, tables = encoder.config, encoder.embeddings
    refuse_extras(encoder, encoder.encoder, tables)
    return Backbone(
        embed=TableEmbedding(tables, projections),
        layers=layers,
        pool=getattr(encoder, "pooler", None),
        hidden_size=config.hidden_size,
        heads=layers[0].heads if layers else config.num_attention_heads,
        projections=projections,
        vocabulary=embedding_rows(tables.word_embeddings, config.vocab_size),
        segments=embedding_rows(tables.token_type_embeddings, config.type_vocab_size),
        max_positions=embedding_rows(tables.position_embeddings, config.max_position_embeddings),
        padding_id=padding_id,
    )


def bert_layer(encoder: Any, module: Any, heads: int, dropout: float) -> PostNormLayer:
    """View a layer of `encoder` whose modules are called as BERT's.

    `dropout` is that of attention probabilities now: 0 in eval mode.
    """
    own, out = module.attention.self, module.attention.output
    refuse_extras(encoder, module, module.attention, own, out, module.intermediate, module.output)
    return PostNormLayer(
        heads=heads,
        query=own.query,
        key=own.key,
        value=own.value,
        dropout=dropout,
        output=out.dense,
        output_dropout=out.dropout,
        output_norm=out.LayerNorm,
        wide=module.intermediate.dense,
        activation=module.intermediate.intermediate_act_fn,
        narrow=module.output.dense,
        narrow_dropout=module.output.dropout,
        narrow_norm=module.output.LayerNorm,
    )
