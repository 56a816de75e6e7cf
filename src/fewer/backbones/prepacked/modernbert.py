"""A prepacked layer of ModernBERT: pre-norm, rotary positions, gated feed-forward."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from fewer.backbones.base import split_heads
from fewer.backbones.modernbert import ModernBertLayer, angles, rotate
from fewer.backbones.prepacked.eligible import (
    NotPrepackable,
    activation_name,
    norm_of,
    plain_linear,
)
from fewer.backbones.prepacked.layer import PrepackedLayer
from fewer.kernels.cpu.library import Isa
from fewer.kernels.cpu.ops import Weight, linear

__all__ = ["PrepackedModernBert"]

BLOCK = 1024  # positions whose angles are computed together, in fixed blocks


@dataclass(frozen=True, kw_only=True)
class PrepackedModernBert(PrepackedLayer):
    """One layer; the two halves of the gated feed-forward map are packed separately."""

    plain: ModernBertLayer
    frequencies: tuple[float, ...]
    projections: Weight
    output: Weight
    value: Weight
    activation: str
    gate: Weight
    narrow: Weight

    @classmethod
    def of(cls, layer: ModernBertLayer, isa: Isa) -> PrepackedModernBert:
        """Prepack a layer. Raises `NotPrepackable` for a module that is not plain."""
        attention, mlp = layer.module.attn, layer.module.mlp
        for norm in (layer.module.attn_norm, layer.module.mlp_norm):
            if not isinstance(norm, nn.Identity) and norm_of(norm).weight.dtype != torch.float32:
                raise NotPrepackable(f"a LayerNorm in {norm.weight.dtype} takes no states in fp32")
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
            frequencies=tuple(layer.rotary.frequencies.float().tolist()),
            projections=Weight.from_modules([plain_linear(attention.Wqkv)], isa),
            output=Weight.from_modules([plain_linear(attention.Wo)], isa),
            value=value,
            activation=activation_name(mlp.act),
            gate=gate,
            narrow=Weight.from_modules([plain_linear(mlp.Wo)], isa),
        )

    def qkv(
        self, hidden: Tensor, position: Tensor, rows: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Project the normed states with one fused map, then rotate queries and keys."""
        normed = self.plain.module.attn_norm(hidden)
        fused = linear(normed, self.projections, dtype=self.isa.attention_dtype)
        q, k, v = (split_heads(part, self.plain.heads) for part in fused.chunk(3, dim=1))
        last = int(position.max()) if position.numel() else 0
        tables = _angles(self.frequencies, self.plain.rotary.scaling, last // BLOCK + 1)
        cos, sin = (table.index_select(0, position)[:, None] for table in tables)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        return (q if rows is None else q.index_select(0, rows)), k, v

    def attended(self, context: Tensor, hidden: Tensor) -> Tensor:
        """Compute x + W context."""
        return linear(context, self.output, residual=hidden.contiguous())

    def ffn(self, hidden: Tensor) -> Tensor:
        """Compute x + W2 (act(a) * b), with (a, b) = W1 norm(x)."""
        normed = self.plain.module.mlp_norm(hidden)
        inner = linear(normed, self.value, activation=self.activation)
        inner *= linear(normed, self.gate)
        return linear(inner, self.narrow, residual=hidden.contiguous())


@cache
@torch.inference_mode(False)
def _angles(frequencies: tuple[float, ...], scaling: float, blocks: int) -> tuple[Tensor, Tensor]:
    """Return cos and sin `(positions, d)`; no entry depends on the number of blocks."""
    tables = [
        angles(torch.arange(block * BLOCK, (block + 1) * BLOCK), torch.tensor(frequencies), scaling)
        for block in range(blocks)
    ]
    cos, sin = zip(*tables, strict=True)
    return torch.cat(cos), torch.cat(sin)
