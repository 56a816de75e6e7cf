"""What the loop wants of a layer."""

from __future__ import annotations

from typing import Any, Protocol

from jaxtyping import Float, Int
from torch import Tensor

from fewer.kernels import Pattern

__all__ = ["Layer"]


class Layer(Protocol):
    """One layer of a backbone: the model's own modules, called in the model's own order."""

    @property
    def pattern(self) -> Pattern | None:
        """Which pairs of tokens attend, or `None` for all of a text."""
        ...

    @property
    def dropout(self) -> float:
        """Dropout of the attention probabilities; 0 in eval mode."""
        ...

    @property
    def last_norm(self) -> Any:
        """The layer norm that makes the layer's output; `None` where its output is a plain sum."""
        ...

    def qkv(
        self,
        hidden: Float[Tensor, "T D"],
        position: Int[Tensor, "T"],
        rows: Int[Tensor, "Tq"] | None,
    ) -> tuple[Float[Tensor, "Tq H d"], Float[Tensor, "T H d"], Float[Tensor, "T H d"]]:
        """Project to queries (of `rows` only, `None` = all), keys and values."""
        ...

    def far(
        self, hidden: Float[Tensor, "T D"], anchors: Int[Tensor, "A"]
    ) -> tuple[Float[Tensor, "A H d"], Float[Tensor, "T H d"], Float[Tensor, "T H d"]] | None:
        """Project to what anchors ask with and read, where the model has maps of their own."""
        ...

    def attended(
        self, context: Float[Tensor, "Tq H*d"], hidden: Float[Tensor, "Tq D"]
    ) -> Float[Tensor, "Tq D"]:
        """Finish the attention block: output projection, residual, norm."""
        ...

    def ffn(self, hidden: Float[Tensor, "Tq D"]) -> Float[Tensor, "Tq D"]:
        """Run the feed-forward block with its residual and norm."""
        ...
