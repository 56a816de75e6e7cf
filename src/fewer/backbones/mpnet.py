"""MPNet: BERT's layers with one bias of each head and distance, shared by all layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from fewer.backbones.base import Backbone
from fewer.backbones.live import dropout_probability, embedding_rows, refuse_extras
from fewer.backbones.post_norm import PostNormLayer, TableEmbedding
from fewer.kernels.relative import RelativeScores

__all__ = ["DistanceBias", "bind"]


def bind(encoder: Any) -> Backbone:
    """Adapt an `MPNetModel`."""
    config, tables, stack = encoder.config, encoder.embeddings, encoder.encoder
    refuse_extras(encoder, stack, tables)
    layers = [_layer(encoder, module, DistanceBias(stack)) for module in stack.layer]
    return Backbone(
        embed=TableEmbedding(tables, segments=False),
        layers=layers,
        pool=encoder.pooler,
        hidden_size=config.hidden_size,
        heads=layers[0].heads if layers else config.num_attention_heads,
        vocabulary=embedding_rows(tables.word_embeddings, config.vocab_size),
        max_positions=embedding_rows(tables.position_embeddings, config.max_position_embeddings),
        padding_id=tables.padding_idx,
    )


REACH = 128  # beyond it all distances of a sign have the same bucket


@dataclass(frozen=True)
class DistanceBias:
    """The bias of each bucket of distances, from the table of the model."""

    stack: Any

    def __call__(self) -> RelativeScores:
        """Read the table; its buckets are those of transformers."""
        weight = self.stack.relative_attention_bias.weight
        distance = torch.arange(-REACH, REACH + 1, device=weight.device)
        bucket = self.stack.relative_position_bucket(-distance)  # of a key from its query
        return RelativeScores(bucket.int(), bias=weight)


def _layer(encoder: Any, module: Any, bias: DistanceBias) -> PostNormLayer:
    attention = module.attention.attn
    refuse_extras(encoder, module, module.attention, attention, module.intermediate, module.output)
    return PostNormLayer(
        heads=attention.num_attention_heads,
        query=attention.q,
        key=attention.k,
        value=attention.v,
        dropout=dropout_probability(encoder, attention.dropout),
        relative_scores=bias,
        relative_flops=(0.0, 0.0),
        output=attention.o,
        output_dropout=module.attention.dropout,
        output_norm=module.attention.LayerNorm,
        wide=module.intermediate.dense,
        activation=module.intermediate.intermediate_act_fn,
        narrow=module.output.dense,
        narrow_dropout=module.output.dropout,
        narrow_norm=module.output.LayerNorm,
    )
