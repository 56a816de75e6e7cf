"""A layer of ModernBERT, prepacked: the two halves of its gated map are packed separately."""

from __future__ import annotations

from typing import Any

from torch import nn

from fewer.backbones.modernbert import ModernBertLayer
from fewer.backbones.prepacked.eligible import activation_name, kernel_norm, plain_linear
from fewer.backbones.prepacked.pre_norm import PrepackedPreNorm
from fewer.kernels.cpu.library import Isa
from fewer.kernels.cpu.ops import Weight

__all__ = ["prepack_modernbert"]


def prepack_modernbert(layer: ModernBertLayer, isa: Isa) -> PrepackedPreNorm:
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
    return PrepackedPreNorm(
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
