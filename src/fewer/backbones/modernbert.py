"""ModernBERT: pre-norm, rotary positions, gated feed-forward, local and global layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fewer.backbones.base import Backbone, Tokens, split_heads
from fewer.backbones.live import embedding_rows, refuse_extras
from fewer.core.cost import LayerCost, linear_flops
from fewer.kernels import Pattern

__all__ = ["ModernBertLayer", "angles", "bind", "rotate"]


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
        cos, sin = self.rotary.tables(position)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
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


class Rotary:
    """The rotary embedding of layers of one kind, in one pass."""

    def __init__(self, frequencies: Float[Tensor, "d/2"], scaling: float) -> None:
        self.frequencies = frequencies
        self.scaling = scaling  # of cosine and sine
        self._last: tuple[Tensor, tuple[Tensor, Tensor]] | None = None

    def tables(self, position: Int[Tensor, "T"]) -> tuple[Tensor, Tensor]:
        """Return cos and sin, `(T, 1, d)`; layers that prune no token share them."""
        if self._last is None or self._last[0] is not position:
            cos, sin = angles(position, self.frequencies, self.scaling)
            self._last = position, (cos[:, None], sin[:, None])
        return self._last[1]


def angles(position: Tensor, frequencies: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """Return cos and sin of the rotary angles, `(T, d)` each, in fp32, times `scaling`."""
    angle = position[:, None].float() * frequencies.float()  # (T, d/2)
    angle = torch.cat((angle, angle), dim=-1)  # (T, d)
    return angle.cos() * scaling, angle.sin() * scaling


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs (i, i + d/2) in fp32."""
    first, second = x.float().chunk(2, dim=-1)
    return (x.float() * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


def bind(encoder: Any) -> Backbone:
    """Adapt a `ModernBertModel`.

    Raises `ValueError` for rotary angles that depend on the longest text of the batch.
    """
    config, tables, rotary = encoder.config, encoder.embeddings, encoder.rotary_emb
    refuse_extras(encoder, tables, rotary)
    for kind, rope_type in rotary.rope_type.items():
        if "dynamic" in rope_type or rope_type == "longrope":
            raise ValueError(
                f"rope_type of {kind} layers must not depend on the batch; got "
                f"{rope_type!r}. Load the model with rope_type 'default', 'linear' or 'yarn', or "
                "do without fewer.attach."
            )
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
