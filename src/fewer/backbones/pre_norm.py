"""The layer of families whose norms stand before each block, independent of module names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fewer.backbones.layer import TransformerLayer

__all__ = ["PreNormLayer"]


@dataclass(frozen=True, kw_only=True)
class PreNormLayer(TransformerLayer):
    """References to one layer's modules: x + attention(norm(x)), then y + ffn(norm(y))."""

    attention_norm: Any
    ffn_norm: Any

    @property
    def last_norm(self) -> None:
        """None: a pre-norm layer ends with a plain sum."""
        return None

    def qkv(
        self, hidden: Tensor, position: Tensor, rows: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Project the normed states."""
        return self.project(self.attention_norm(hidden), position, rows)

    def attended(self, context: Tensor, hidden: Tensor) -> Tensor:
        """Compute x + dropout(W context)."""
        return hidden + self.project_context(context)

    def ffn(self, hidden: Tensor) -> Tensor:
        """Compute x + dropout(W2 act(W1 norm(x)))."""
        return hidden + self.feed_forward(self.ffn_norm(hidden))
