"""The prepacked layer of families whose norms stand before each block."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fewer.backbones.pre_norm import PreNormLayer
from fewer.backbones.prepacked.eligible import kernel_norm
from fewer.backbones.prepacked.layer import PrepackedLayer
from fewer.backbones.prepacked.maps import pack_maps
from fewer.kernels.cpu.library import Isa
from fewer.kernels.cpu.ops import Norm, linear

__all__ = ["PrepackedPreNorm"]


@dataclass(frozen=True, kw_only=True)
class PrepackedPreNorm(PrepackedLayer):
    """One layer in four calls: norm with q k v, rotation, output, norm with feed-forward block."""

    attention_norm: Norm | None  # none in the first layer of ModernBERT
    ffn_norm: Norm

    @classmethod
    def of(cls, layer: PreNormLayer, isa: Isa) -> PrepackedPreNorm:
        """Prepack a layer. Raises `NotPrepackable` for a module that is not plain."""
        return cls(
            **pack_maps(layer, isa),
            attention_norm=kernel_norm(layer.attention_norm),
            ffn_norm=kernel_norm(layer.ffn_norm),
        )

    def qkv(
        self, hidden: Tensor, position: Tensor, rows: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Project the normed states."""
        return self.project(hidden, position, rows, self.attention_norm)

    def attended(self, context: Tensor, hidden: Tensor) -> Tensor:
        """Compute x + W context."""
        return linear(context, self.output, residual=hidden.contiguous())

    def ffn(self, hidden: Tensor) -> Tensor:
        """Compute x + W2 act(W1 norm(x))."""
        return self.feed_forward(hidden, input_norm=self.ffn_norm)
