"""ALBERT: few layer modules, each run several times; narrow embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fewer.backbones.base import Backbone, Tokens, linear_flops, shape, split_heads
from fewer.core.cost import LayerCost

__all__ = ["AlbertLayer", "bind"]


@dataclass(frozen=True)
class AlbertLayer:
    """One turn of `albert_layers.{i}`; post-norm. Several turns may share the module."""

    module: Any
    heads: int
    window: int | None = None

    @property
    def dropout(self) -> float:
        """Attention dropout as the model has it."""
        dropout = self.module.attention.attention_dropout
        return float(dropout.p) if dropout.training else 0.0

    def qkv(
        self, hidden: Tensor, position: Tensor, rows: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Three linear maps."""
        own = self.module.attention
        asking = hidden if rows is None else hidden.index_select(0, rows)
        return (
            split_heads(own.query(asking), self.heads),
            split_heads(own.key(hidden), self.heads),
            split_heads(own.value(hidden), self.heads),
        )

    def attended(self, context: Tensor, hidden: Tensor) -> Tensor:
        """LN(x + dropout(W context))."""
        own = self.module.attention
        normed: Tensor = own.LayerNorm(hidden + own.output_dropout(own.dense(context)))
        return normed

    def ffn(self, hidden: Tensor) -> Tensor:
        """LN(x + W2 act(W1 x)); no dropout here."""
        own = self.module
        normed: Tensor = own.full_layer_layer_norm(
            own.ffn_output(own.activation(own.ffn(hidden))) + hidden
        )
        return normed

    @property
    def cost(self) -> LayerCost:
        """FLOPs of this layer's matrices."""
        own = self.module.attention
        return LayerCost(
            query=linear_flops(own.query),
            key_value=linear_flops(own.key, own.value),
            output=linear_flops(own.dense),
            ffn=linear_flops(self.module.ffn, self.module.ffn_output),
            pair=4.0 * own.query.out_features,
            score=float(self.heads),
        )


def bind(encoder: Any) -> Backbone:
    """View an `AlbertModel`."""
    config, tables, stack = encoder.config, encoder.embeddings, encoder.encoder
    groups = stack.albert_layer_groups
    turns = [
        groups[int(turn / (config.num_hidden_layers / len(groups)))]  # rounds as the model does
        for turn in range(config.num_hidden_layers)
    ]
    layers = [
        AlbertLayer(module, config.num_attention_heads)
        for group in turns
        for module in group.albert_layers
    ]

    def embed(tokens: Tokens) -> Tensor:
        segment = (
            tokens.segment
            if tokens.segment is not None
            else tokens.position.new_zeros(tokens.position.shape)
        )
        summed = tokens.words(tables.word_embeddings) + tables.token_type_embeddings(segment)
        summed = summed + tables.position_embeddings(tokens.position)
        hidden: Tensor = stack.embedding_hidden_mapping_in(tables.dropout(tables.LayerNorm(summed)))
        return hidden

    def pool(states: Tensor) -> Tensor:
        pooled: Tensor = encoder.pooler_activation(encoder.pooler(states[:, 0]))
        return pooled

    return Backbone(
        embed=embed,
        layers=layers,
        finish=nn.Identity(),
        pool=pool if encoder.pooler is not None else None,
        shape=shape(
            [layer.cost for layer in layers],
            config.hidden_size,
            config.num_attention_heads,
            stack.embedding_hidden_mapping_in,
        ),
        vocabulary=config.vocab_size,
        segments=config.type_vocab_size,
        max_positions=tables.position_embeddings.num_embeddings,
    )
