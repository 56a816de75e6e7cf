"""The prepacked layer of families whose norms stand before each block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from fewer.backbones.pre_norm import PreNormLayer
from fewer.backbones.prepacked.eligible import norm_function
from fewer.backbones.prepacked.layer import PrepackedLayer
from fewer.backbones.prepacked.maps import pack_maps
from fewer.kernels.cpu.library import Isa
from fewer.kernels.cpu.ops import linear

__all__ = ["PrepackedPreNorm"]


@dataclass(frozen=True, kw_only=True)
class PrepackedPreNorm(PrepackedLayer):
    """One layer in four or five calls; norms are computed by torch, in fp32."""

    plain: PreNormLayer
    attention_norm: Callable[[Tensor], Tensor]
    ffn_norm: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, layer: PreNormLayer, isa: Isa) -> PrepackedPreNorm:
        """Prepack a layer. Raises `NotPrepackable` for a module that is not plain."""
        return cls(
            **pack_maps(layer, isa),
            attention_norm=norm_function(layer.attention_norm),
            ffn_norm=norm_function(layer.ffn_norm),
        )

    def qkv(
        self, hidden: Tensor, position: Tensor, rows: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Project the normed states."""
        return self.project(self.attention_norm(hidden), position, rows)

    def attended(self, context: Tensor, hidden: Tensor) -> Tensor:
        """Compute x + W context."""
        return linear(context, self.output, residual=hidden.contiguous())

    def ffn(self, hidden: Tensor) -> Tensor:
        """Compute x + W2 act(W1 norm(x))."""
        inner = self.inner_states(self.ffn_norm(hidden))
        return linear(inner, self.narrow, residual=hidden.contiguous())
