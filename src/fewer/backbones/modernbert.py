"""ModernBERT: pre-norm, rotary positions, gated feed-forward, local and global layers in turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewer.backbones.base import Backbone, Tokens, split_heads
from fewer.core.cost import LayerCost, linear_flops
from fewer.kernels import Pattern

__all__ = ["ModernBertLayer", "angles", "bind", "rotate"]


@dataclass(frozen=True)
class ModernBertLayer:
    """One `layers.{i}`. Angles and windows read the original position of a token."""

    module: Any
    heads: int
    theta: float  # base of the rotary angles
    pattern: Pattern | None  # a window, in a local layer

    @property
    def dropout(self) -> float:
        """Attention dropout as the model has it."""
        return float(self.module.attn.attention_dropout) if self.module.attn.training else 0.0

    @property
    def last_norm(self) -> None:
        """None: the residual stream is not normed."""
        return None

    def qkv(
        self, hidden: Tensor, position: Tensor, rows: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One fused map of the normed state, then rotation of queries and keys."""
        fused = self.module.attn.Wqkv(self.module.attn_norm(hidden))
        q, k, v = (split_heads(part, self.heads) for part in fused.chunk(3, dim=-1))
        cos, sin = (part[:, None] for part in angles(position, self.theta, q.shape[-1]))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        return (q if rows is None else q.index_select(0, rows)), k, v

    def far(self, hidden: Tensor, anchors: Tensor) -> None:
        """Nothing: there are no anchors."""

    def attended(self, context: Tensor, hidden: Tensor) -> Tensor:
        """X + dropout(W context)."""
        own = self.module.attn
        summed: Tensor = hidden + own.out_drop(own.Wo(context))
        return summed

    def ffn(self, hidden: Tensor) -> Tensor:
        """X + W2 dropout(act(a) * b), with (a, b) = W1 norm(x)."""
        own = self.module.mlp
        value, gate = own.Wi(self.module.mlp_norm(hidden)).chunk(2, dim=-1)
        summed: Tensor = hidden + own.Wo(own.drop(own.act(value) * gate))
        return summed

    @property
    def cost(self) -> LayerCost:
        """FLOPs of this layer's matrices.

        The fused map counts with the keys, as it is computed for every row.
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


def angles(position: Tensor, theta: float, width: int) -> tuple[Tensor, Tensor]:
    """Return cos and sin of the rotary angles, `(T, width)` each, in fp32."""
    half = torch.arange(0, width, 2, device=position.device, dtype=torch.float32) / width
    angle = position[:, None].float() * (1.0 / theta**half)  # (T, d/2)
    angle = torch.cat((angle, angle), dim=-1)  # (T, d)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs (i, i + d/2) in fp32."""
    first, second = x.float().chunk(2, dim=-1)
    return (x.float() * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


def bind(encoder: Any) -> Backbone:
    """View a `ModernBertModel`. Raises `ValueError` for rotary variants other than the default."""
    config, tables = encoder.config, encoder.embeddings
    for kind, rope in config.rope_parameters.items():
        if rope is not None and rope["rope_type"] != "default":
            raise ValueError(
                f"rope_type {rope['rope_type']!r} of {kind} layers is not supported; wanted "
                "'default'"
            )
    layers = [
        ModernBertLayer(
            module=module,
            heads=config.num_attention_heads,
            theta=float(config.rope_parameters[kind]["rope_theta"]),
            pattern=Pattern(config.sliding_window) if kind == "sliding_attention" else None,
        )
        for module, kind in zip(encoder.layers, config.layer_types, strict=True)
    ]

    def embed(tokens: Tokens) -> Tensor:
        hidden: Tensor = tables.drop(tables.norm(tokens.words(tables.tok_embeddings)))
        return hidden

    return Backbone(
        embed=embed,
        layers=layers,
        finish=encoder.final_norm,
        hidden_size=config.hidden_size,
        heads=config.num_attention_heads,
        vocabulary=config.vocab_size,
    )
