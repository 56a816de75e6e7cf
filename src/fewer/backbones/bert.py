"""BERT and what is built like it: MiniLM, RoBERTa, XLM-R, CamemBERT, ELECTRA."""

from __future__ import annotations

from typing import Any

from torch import nn

from fewer.backbones.base import Backbone, while_training
from fewer.backbones.post_norm import PostNormLayer, TableEmbedding

__all__ = ["bert_backbone", "bert_layer", "bind", "bind_electra", "bind_roberta", "refuse_decoder"]


def bind(encoder: Any) -> Backbone:
    """View a `BertModel`."""
    return _bind(encoder)


def bind_roberta(encoder: Any) -> Backbone:
    """View a `RobertaModel` or its kin: positions start after the padding index."""
    return _bind(encoder, padding_id=encoder.config.pad_token_id)


def bind_electra(encoder: Any) -> Backbone:
    """View an `ElectraModel`: narrow embeddings pass through a projection."""
    narrow = encoder.config.embedding_size != encoder.config.hidden_size
    return _bind(encoder, projections=(encoder.embeddings_project,) if narrow else ())


def _bind(
    encoder: Any, projections: tuple[nn.Module, ...] = (), padding_id: int | None = None
) -> Backbone:
    refuse_decoder(encoder.config)
    layers = [
        bert_layer(module, encoder.config.num_attention_heads, module.attention.self.dropout.p)
        for module in encoder.encoder.layer
    ]
    return bert_backbone(encoder, layers, projections, padding_id)


def refuse_decoder(config: Any) -> None:
    """Raise `ValueError` for a model that could be an encoder, but is a decoder."""
    if config.is_decoder or config.add_cross_attention:
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
    return Backbone(
        embed=TableEmbedding(tables, projections),
        layers=layers,
        pool=getattr(encoder, "pooler", None),
        hidden_size=config.hidden_size,
        heads=config.num_attention_heads,
        projections=projections,
        vocabulary=config.vocab_size,
        segments=config.type_vocab_size,
        max_positions=tables.position_embeddings.num_embeddings,
        padding_id=padding_id,
    )


def bert_layer(module: Any, heads: int, dropout: float) -> PostNormLayer:
    """View a layer whose modules are called as BERT's; attention's `dropout` is for training."""
    own, out = module.attention.self, module.attention.output
    return PostNormLayer(
        heads=heads,
        query=own.query,
        key=own.key,
        value=own.value,
        dropout=while_training(own, dropout),
        output=out.dense,
        output_dropout=out.dropout,
        output_norm=out.LayerNorm,
        wide=module.intermediate.dense,
        activation=module.intermediate.intermediate_act_fn,
        narrow=module.output.dense,
        narrow_dropout=module.output.dropout,
        narrow_norm=module.output.LayerNorm,
    )
