"""A prepacked layer of ModernBERT: pre-norm, rotary positions, gated feed-forward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fewer.backbones.modernbert import ModernBertLayer
from fewer.backbones.prepacked.eligible import (
    activation_name,
    kernel_norm,
    plain_linear,
)
from fewer.backbones.prepacked.layer import PrepackedLayer
from fewer.kernels.cpu.library import Isa
from fewer.kernels.cpu.ops import Norm, Weight, linear

__all__ = ["PrepackedModernBert"]


@dataclass(frozen=True, kw_only=True)
class PrepackedModernBert(PrepackedLayer):
    """One layer; the two halves of the gated feed-forward map are packed separately."""

    plain: ModernBertLayer
    attention_norm: Norm | None  # none in the first layer
    ffn_norm: Norm

    @classmethod
    def of(cls, layer: ModernBertLayer, isa: Isa) -> PrepackedModernBert:
        """Prepack a layer. Raises `NotPrepackable` for a module that is not plain."""
        attention, mlp = layer.module.attn, layer.module.mlp
        norm = layer.module.attn_norm
        wide = plain_linear(mlp.Wi)
        half = wide.out_features // 2
        biases: Any = (None, None) if wide.bias is None else wide.bias.detach().float().split(half)
        value, gate = (
            Weight.from_matrix(matrix, bias, isa)
            for matrix, bias in zip(wide.weight.detach().split(half), biases, strict=True)
        )
        return cls(
            plain=layer,
            isa=isa,
            attention_norm=None if isinstance(norm, nn.Identity) else kernel_norm(norm),
            ffn_norm=kernel_norm(layer.module.mlp_norm),
            rotary=layer.rotary.fixed(),
            query_width=attention.Wqkv.out_features // 3,
            projections=Weight.from_modules([plain_linear(attention.Wqkv)], isa),
            output=Weight.from_modules([plain_linear(attention.Wo)], isa),
            wide=value,
            activation=activation_name(mlp.act),
            gate=gate,
            narrow=Weight.from_modules([plain_linear(mlp.Wo)], isa),
        )

    def qkv(
        self, hidden: Tensor, position: Tensor, rows: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Project the normed states with one fused map, then rotate queries and keys."""
        return self.project(hidden, position, rows, self.attention_norm)

    def attended(self, context: Tensor, hidden: Tensor) -> Tensor:
        """Compute x + W context."""
        return linear(context, self.output, residual=hidden.contiguous())

    def ffn(self, hidden: Tensor) -> Tensor:
        """Compute x + W2 (act(a) * b), with (a, b) = W1 norm(x)."""
        return self.feed_forward(hidden, input_norm=self.ffn_norm)
