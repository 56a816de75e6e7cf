"""DeBERTa-v2 and DeBERTa-v3: BERT's layers with disentangled attention."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

from fewer.backbones.base import Backbone, Tokens, split_heads
from fewer.backbones.bert import after_attention
from fewer.backbones.fast_linear import drop
from fewer.backbones.live import dropout_probability, embedding_rows, refuse_extras
from fewer.backbones.post_norm import PostNormLayer, TableEmbedding, segment_of
from fewer.kernels.relative import RelativeScores

__all__ = ["PositionScores", "bind"]


def bind(encoder: Any) -> Backbone:
    """Adapt a `DebertaV2Model`.

    Raises `ValueError` for a convolution after the first layer, and for repeated last layers.
    """
    config, tables, stack = encoder.config, encoder.embeddings, encoder.encoder
    refuse_extras(encoder, stack, tables)
    if stack.conv is not None:
        raise ValueError(
            "conv_kernel_size must be 0: the convolution after the first layer mixes neighbouring "
            f"columns, padding too; got {stack.conv.conv.kernel_size[0]}. Take a model without it, "
            "such as DeBERTa-v3."
        )
    if encoder.z_steps > 1:
        raise ValueError(f"z_steps must be at most 1; got {encoder.z_steps}. Set it to 0.")
    layers = [_layer(encoder, module) for module in stack.layer]
    segments, positions = tables.token_type_embeddings, tables.position_embeddings
    projections = () if tables.embed_proj is None else (tables.embed_proj,)
    return Backbone(
        embed=ProjectedEmbedding(tables)
        if projections
        else TableEmbedding(
            tables, segments=segments is not None, positions=tables.position_biased_input
        ),
        layers=layers,
        hidden_size=config.hidden_size,
        heads=layers[0].heads if layers else config.num_attention_heads,
        projections=projections,
        vocabulary=embedding_rows(tables.word_embeddings, config.vocab_size),
        segments=0 if segments is None else embedding_rows(segments, config.type_vocab_size),
        max_positions=embedding_rows(positions, config.max_position_embeddings)
        if tables.position_biased_input
        else None,
        output=_output,
    )


def _output(last_hidden_state: Tensor, pooler_output: None) -> BaseModelOutput:
    """Return an output without a pooled state: the heads of this family pool by themselves."""
    return BaseModelOutput(last_hidden_state=last_hidden_state)


@dataclass(frozen=True)
class ProjectedEmbedding:
    """Sum narrow embeddings and project them, before the norm."""

    tables: Any  # the embeddings module of the model

    def __call__(self, tokens: Tokens) -> Tensor:
        """Embed packed tokens."""
        tables = self.tables
        summed = tokens.words(tables.word_embeddings)
        if tables.position_biased_input:
            summed = summed + tables.position_embeddings(tokens.position)
        if tables.token_type_embeddings is not None:
            summed = summed + tables.token_type_embeddings(segment_of(tokens))
        return drop(tables.dropout, tables.LayerNorm(tables.embed_proj(summed)))


@dataclass(frozen=True)
class PositionScores:
    """The projected relative positions of one layer, from the modules of the model."""

    stack: Any  # the encoder with the embeddings of relative positions
    attention: Any  # of the layer
    scale: float  # of the queries

    def __call__(self) -> RelativeScores:
        """Project the embeddings of all buckets; in training with dropout."""
        attention, span = self.attention, self.attention.pos_ebd_size
        embeddings = drop(attention.pos_dropout, self.stack.get_rel_embedding())[: 2 * span]
        key_map, query_map = self.maps
        heads = attention.num_attention_heads
        key = None if key_map is None else split_heads(key_map(embeddings), heads)
        query = None if query_map is None else split_heads(query_map(embeddings), heads)
        bucket = bucket_table(span, attention.position_buckets, attention.max_relative_positions)
        return RelativeScores(
            bucket.to(embeddings.device), key, None if query is None else query * self.scale
        )

    @property
    def maps(self) -> tuple[nn.Module | None, nn.Module | None]:
        """The maps to position keys and to position queries."""
        attention = self.attention
        shares, kinds = attention.share_att_key, attention.pos_att_type
        key = query = None
        if "c2p" in kinds:
            key = attention.key_proj if shares else attention.pos_key_proj
        if "p2c" in kinds:
            query = attention.query_proj if shares else attention.pos_query_proj
        return key, query


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # a later training step may read the cached tensor
def bucket_table(span: int, buckets: int, max_distance: int) -> Tensor:
    """Return the row of the relative embeddings of each distance, far enough that the last repeat.

    int32, distances ascending. Beyond `max_distance` all distances have the outermost rows.
    """
    reach = max(span, 2 * max_distance)
    distance = torch.arange(-reach, reach + 1)
    if buckets > 0 and max_distance > 0:
        distance = make_log_bucket_position(distance, buckets, max_distance).long()
    return (distance + span).clamp(0, 2 * span - 1).int()


def _layer(encoder: Any, module: Any) -> PostNormLayer:
    attention = module.attention.self
    modules = after_attention(encoder, module)
    scale = (1 + ("c2p" in attention.pos_att_type) + ("p2c" in attention.pos_att_type)) ** -0.5
    relative: dict[str, Any] = {}
    if attention.relative_attention and attention.pos_att_type:
        scores = PositionScores(encoder.encoder, attention, scale)
        columns = 2.0 * attention.pos_ebd_size
        flops = [0.0 if m is None else 2.0 * columns * attention.all_head_size for m in scores.maps]
        relative = {"relative_scores": scores, "relative_flops": tuple(flops)}
    return PostNormLayer(
        heads=attention.num_attention_heads,
        query=attention.query_proj,
        key=attention.key_proj,
        value=attention.value_proj,
        query_scale=scale,
        dropout=dropout_probability(encoder, attention.dropout),
        **modules,
        **relative,
    )
