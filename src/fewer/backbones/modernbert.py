"""ModernBERT: pre-norm, rotary positions, gated feed-forward, local and global layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

from torch import Tensor

from fewer.backbones.base import Backbone, Tokens, split_heads
from fewer.backbones.live import embedding_rows, refuse_extras
from fewer.backbones.rotary import Rotary, refuse_batch_dependent
from fewer.core.cost import LayerCost, linear_flops
from fewer.kernels import Pattern

__all__ = ["ModernBertLayer", "bind"]


@dataclass(frozen=True)
class ModernBertLayer:
    """One `layers.{i}`; rotary angles and windows read original positions."""

    module: Any
    heads: int
    rotary: Rotary
    pattern: Pattern | None  # a window, in a local layer

    @property
    def dropout(self) -> float:
        """Attention dropout; 0 in eval mode."""
        return float(self.module.attn.attention_dropout) if self.module.attn.training else 0.0

    @property
    def last_norm(self) -> None:
        """None: a pre-norm layer ends with a plain sum."""
        return None

    def qkv(
        self, hidden: Tensor, position: Tensor, rows: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Project the normed states with one fused map, then rotate queries and keys."""
        fused = self.module.attn.Wqkv(self.module.attn_norm(hidden))
        q, k, v = (split_heads(part, self.heads) for part in fused.chunk(3, dim=-1))
        q, k = self.rotary(q, position), self.rotary(k, position)
        return (q if rows is None else q.index_select(0, rows)), k, v

    def relative_scores(self) -> None:
        """None: rotations are part of queries and keys."""

    @property
    def has_global_projections(self) -> bool:
        """False: there are no global tokens."""
        return False

    def project_global(self, hidden: Tensor, rows: Tensor) -> NoReturn:
        """Raise: there are no global tokens."""
        raise NotImplementedError

    def attended(self, context: Tensor, hidden: Tensor) -> Tensor:
        """Compute x + dropout(W context)."""
        attention = self.module.attn
        states: Tensor = hidden + attention.out_drop(attention.Wo(context))
        return states

    def ffn(self, hidden: Tensor) -> Tensor:
        """Compute x + W2 dropout(act(a) * b), with (a, b) = W1 norm(x)."""
        mlp = self.module.mlp
        value, gate = mlp.Wi(self.module.mlp_norm(hidden)).chunk(2, dim=-1)
        states: Tensor = hidden + mlp.Wo(mlp.drop(mlp.act(value) * gate))
        return states

    @property
    def cost(self) -> LayerCost:
        """FLOPs of the matrices of this layer.

        The fused projection counts as keys and values, since it runs on every row.
        """
        width = self.module.attn.Wo.in_features
        return LayerCost(
            query=0.0,
            key_value=linear_flops(self.module.attn.Wqkv),
            output=linear_flops(self.module.attn.Wo),
            ffn=linear_flops(self.module.mlp.Wi, self.module.mlp.Wo),
            pair=4.0 * width,
            score=float(self.heads),
            pattern=self.pattern,
        )


def bind(encoder: Any) -> Backbone:
    """Adapt a `ModernBertModel`.

    Raises `ValueError` for rotary angles that depend on the longest text of the batch.
    """
    config, tables, rotary = encoder.config, encoder.embeddings, encoder.rotary_emb
    refuse_extras(encoder, tables, rotary)
    for kind, rope_type in rotary.rope_type.items():
        refuse_batch_dependent(rope_type, f"rope_type of {kind} layers")
    kinds = {
        kind: Rotary(
            getattr(rotary, f"{kind}_inv_freq"),
            float(getattr(rotary, f"{kind}_attention_scaling")),
        )
        for kind in rotary.rope_type
    }
    layers = [_layer(encoder, module, kinds) for module in encoder.layers]

    def embed(tokens: Tokens) -> Tensor:
        hidden: Tensor = tables.drop(tables.norm(tokens.words(tables.tok_embeddings)))
        return hidden

    return Backbone(
        embed=embed,
        layers=layers,
        finish=encoder.final_norm,
        hidden_size=config.hidden_size,
        heads=layers[0].heads if layers else config.num_attention_heads,
        vocabulary=embedding_rows(tables.tok_embeddings, config.vocab_size),
    )


def _layer(encoder: Any, module: Any, kinds: dict[str, Rotary]) -> ModernBertLayer:
    attention = module.attn
    refuse_extras(encoder, module, attention, module.mlp)
    window = attention.sliding_window  # one more than the tokens visible on each side
    return ModernBertLayer(
        module=module,
        heads=attention.Wqkv.out_features // (3 * attention.head_dim),
        rotary=kinds[module.attention_type],
        pattern=None if window is None else Pattern(window - 1),
    )
