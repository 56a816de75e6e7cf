"""DistilBERT: BERT without segments and pooler, under other names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fewer.backbones.base import Backbone, Tokens, linear_flops, shape, split_heads
from fewer.core.cost import LayerCost

__all__ = ["DistilBertLayer", "bind"]


@dataclass(frozen=True)
class DistilBertLayer:
    """One `transformer.layer.{i}`; post-norm."""

    module: Any
    heads: int
    window: int | None = None

    @property
    def dropout(self) -> float:
        """Attention dropout as the model has it."""
        dropout = self.module.attention.dropout
        return float(dropout.p) if dropout.training else 0.0

    def qkv(
        self, hidden: Tensor, position: Tensor, rows: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Three linear maps."""
        own = self.module.attention
        asking = hidden if rows is None else hidden.index_select(0, rows)
        return (
            split_heads(own.q_lin(asking), self.heads),
            split_heads(own.k_lin(hidden), self.heads),
            split_heads(own.v_lin(hidden), self.heads),
        )

    def attended(self, context: Tensor, hidden: Tensor) -> Tensor:
        """LN(x + W context); no dropout here."""
        normed: Tensor = self.module.sa_layer_norm(self.module.attention.out_lin(context) + hidden)
        return normed

    def ffn(self, hidden: Tensor) -> Tensor:
        """LN(x + dropout(W2 act(W1 x)))."""
        own = self.module.ffn
        normed: Tensor = self.module.output_layer_norm(
            own.dropout(own.lin2(own.activation(own.lin1(hidden)))) + hidden
        )
        return normed

    @property
    def cost(self) -> LayerCost:
        """FLOPs of this layer's matrices."""
        own = self.module.attention
        return LayerCost(
            query=linear_flops(own.q_lin),
            key_value=linear_flops(own.k_lin, own.v_lin),
            output=linear_flops(own.out_lin),
            ffn=linear_flops(self.module.ffn.lin1, self.module.ffn.lin2),
            pair=4.0 * own.dim,
            score=float(self.heads),
        )


def bind(encoder: Any) -> Backbone:
    """View a `DistilBertModel`."""
    config, tables = encoder.config, encoder.embeddings
    layers = [DistilBertLayer(module, config.n_heads) for module in encoder.transformer.layer]

    def embed(tokens: Tokens) -> Tensor:
        summed = tokens.words(tables.word_embeddings) + tables.position_embeddings(tokens.position)
        hidden: Tensor = tables.dropout(tables.LayerNorm(summed))
        return hidden

    return Backbone(
        embed=embed,
        layers=layers,
        finish=nn.Identity(),
        pool=None,
        shape=shape([layer.cost for layer in layers], config.dim, config.n_heads),
        vocabulary=config.vocab_size,
        segments=0,
        max_positions=tables.position_embeddings.num_embeddings,
    )
