"""BERT and what is built like it: MiniLM, RoBERTa, XLM-R, CamemBERT, ELECTRA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fewer.backbones.base import Backbone, Tokens, linear_flops, shape, split_heads
from fewer.core.cost import LayerCost

__all__ = ["BertLayer", "bind", "bind_electra", "bind_roberta"]


@dataclass(frozen=True)
class BertLayer:
    """One `encoder.layer.{i}`; post-norm."""

    module: Any
    heads: int
    window: int | None = None

    @property
    def dropout(self) -> float:
        """Attention dropout as the model has it."""
        dropout = self.module.attention.self.dropout
        return float(dropout.p) if dropout.training else 0.0

    def qkv(
        self, hidden: Tensor, position: Tensor, rows: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Three linear maps."""
        own = self.module.attention.self
        asking = hidden if rows is None else hidden.index_select(0, rows)
        return (
            split_heads(own.query(asking), self.heads),
            split_heads(own.key(hidden), self.heads),
            split_heads(own.value(hidden), self.heads),
        )

    def attended(self, context: Tensor, hidden: Tensor) -> Tensor:
        """LN(x + dropout(W context))."""
        out = self.module.attention.output
        normed: Tensor = out.LayerNorm(out.dropout(out.dense(context)) + hidden)
        return normed

    def ffn(self, hidden: Tensor) -> Tensor:
        """LN(x + dropout(W2 act(W1 x)))."""
        inner, out = self.module.intermediate, self.module.output
        wide = inner.intermediate_act_fn(inner.dense(hidden))
        normed: Tensor = out.LayerNorm(out.dropout(out.dense(wide)) + hidden)
        return normed

    @property
    def cost(self) -> LayerCost:
        """FLOPs of this layer's matrices."""
        own, width = self.module.attention.self, self.module.attention.self.query.out_features
        return LayerCost(
            query=linear_flops(own.query),
            key_value=linear_flops(own.key, own.value),
            output=linear_flops(self.module.attention.output.dense),
            ffn=linear_flops(self.module.intermediate.dense, self.module.output.dense),
            pair=4.0 * width,
            score=float(self.heads),
        )


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
    config, tables = encoder.config, encoder.embeddings
    if config.is_decoder or config.add_cross_attention:
        raise ValueError(
            "this model is configured as a decoder (is_decoder or add_cross_attention); fewer "
            "reads encoders"
        )
    layers = [BertLayer(module, config.num_attention_heads) for module in encoder.encoder.layer]

    def embed(tokens: Tokens) -> Tensor:
        segment = (
            tokens.segment
            if tokens.segment is not None
            else tokens.position.new_zeros(tokens.position.shape)
        )
        summed = tokens.words(tables.word_embeddings) + tables.token_type_embeddings(segment)
        summed = summed + tables.position_embeddings(tokens.position)
        hidden: Tensor = tables.dropout(tables.LayerNorm(summed))
        for projection in projections:
            hidden = projection(hidden)
        return hidden

    return Backbone(
        embed=embed,
        layers=layers,
        finish=nn.Identity(),
        pool=getattr(encoder, "pooler", None),
        shape=shape(
            [layer.cost for layer in layers],
            config.hidden_size,
            config.num_attention_heads,
            *projections,
        ),
        vocabulary=config.vocab_size,
        segments=config.type_vocab_size,
        max_positions=tables.position_embeddings.num_embeddings,
        padding_id=padding_id,
    )
