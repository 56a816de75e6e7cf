"""BERT and models of its structure: MiniLM, RoBERTa, XLM-R, CamemBERT, ELECTRA, RemBERT."""

from __future__ import annotations

from typing import Any

from torch import nn

from fewer.backbones.base import Backbone
from fewer.backbones.live import dropout_probability, embedding_rows, refuse_extras
from fewer.backbones.post_norm import PostNormLayer, TableEmbedding

__all__ = [
    "after_attention",
    "bert_backbone",
    "bert_layer",
    "bind",
    "bind_electra",
    "bind_rembert",
    "bind_roberta",
    "refuse_decoder",
]


def bind(encoder: Any) -> Backbone:
    """Adapt a `BertModel`."""
    return _bind(encoder)


def bind_roberta(encoder: Any) -> Backbone:
    """Adapt a `RobertaModel` or a model like it: positions start after the padding index."""
    return _bind(encoder, padding_id=encoder.embeddings.padding_idx)


def bind_electra(encoder: Any) -> Backbone:
    """Adapt an `ElectraModel`: narrow embeddings pass through a projection."""
    projection = getattr(encoder, "embeddings_project", None)
    return _bind(encoder, projections=() if projection is None else (projection,))


def bind_rembert(encoder: Any) -> Backbone:
    """Adapt a `RemBertModel`: embeddings of another width pass through a projection."""
    return _bind(encoder, projections=(encoder.encoder.embedding_hidden_mapping_in,))


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
    """Raise `ValueError` for a model that is configured, or was built, as a decoder."""
    config = encoder.config
    has_decoder_layers = any(layer.is_decoder for layer in encoder.encoder.layer)
    if has_decoder_layers or config.is_decoder or config.add_cross_attention:
        raise ValueError(
            "the model must be an encoder; got one configured as a decoder (is_decoder or "
            "add_cross_attention). Load it without these settings."
        )


def bert_backbone(
    encoder: Any,
    layers: list[PostNormLayer],
    projections: tuple[nn.Module, ...] = (),
    padding_id: int | None = None,
) -> Backbone:
    """Adapt an encoder with embeddings and pooler of BERT's names."""
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
    """Adapt a layer of `encoder` with modules of BERT's names.

    `dropout` is the current dropout of attention probabilities: 0 in eval mode.
    """
    attention = module.attention.self
    return PostNormLayer(
        heads=heads,
        query=attention.query,
        key=attention.key,
        value=attention.value,
        dropout=dropout,
        **after_attention(encoder, module),
    )


def after_attention(encoder: Any, module: Any) -> dict[str, Any]:
    """Return a layer's modules of BERT's names that follow its attention, for `PostNormLayer`.

    Raises `ValueError` for adapters and other extras anywhere in the layer.
    """
    attention, output = module.attention.self, module.attention.output
    refuse_extras(encoder, module, module.attention, attention, output)
    refuse_extras(encoder, module.intermediate, module.output)
    return {
        "output": output.dense,
        "output_dropout": output.dropout,
        "output_norm": output.LayerNorm,
        "wide": module.intermediate.dense,
        "activation": module.intermediate.intermediate_act_fn,
        "narrow": module.output.dense,
        "narrow_dropout": module.output.dropout,
        "narrow_norm": module.output.LayerNorm,
    }
