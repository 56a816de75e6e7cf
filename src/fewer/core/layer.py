"""What the loop needs of a layer."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fewer.core.packed import Packed
from fewer.kernels import Pattern
from fewer.kernels.relative import RelativeScores

__all__ = ["Layer", "LayerChain", "renormalise_frozen"]

# A norm's scale below it cannot be divided out again.
NO_SCALE = 1e-6


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

    def relative_scores(self) -> RelativeScores | None:
        """Return what the layer adds to scores by distance; `None` where it adds nothing."""
        ...

    @property
    def has_global_projections(self) -> bool:
        """Whether the model projects global tokens, and what they read, by maps of their own."""
        ...

    def project_global(
        self, hidden: Float[Tensor, "T D"], rows: Int[Tensor, "G"]
    ) -> tuple[Float[Tensor, "G H d"], Float[Tensor, "T H d"], Float[Tensor, "T H d"]]:
        """Project to queries of the global tokens, which stand in `rows`, and their keys, values.

        Only of layers that have such projections.
        """
        ...

    def attended(
        self, context: Float[Tensor, "Tq H*d"], hidden: Float[Tensor, "Tq D"]
    ) -> Float[Tensor, "Tq D"]:
        """Finish the attention block: output projection, residual, norm."""
        ...

    def ffn(self, hidden: Float[Tensor, "Tq D"]) -> Float[Tensor, "Tq D"]:
        """Run the feed-forward block with its residual and norm."""
        ...


class LayerChain(Protocol):
    """The layers of a model, with no Python code between what they compute.

    All tokens are keys and values in full, and attend to all of their text.
    """

    @property
    def reads_some_rows(self) -> bool:
        """Whether `run` may be given rows."""
        ...

    def run(
        self, tokens: Packed, first: int, stop: int, rows: Int[Tensor, "Tq"] | None = None
    ) -> Float[Tensor, "Tq D"]:
        """Return the states after the layers from `first` up to `stop`.

        Of these rows alone, where they are given: the others stay as they are, in one layer.
        """
        ...

    def attend(
        self, tokens: Packed, layer: int, *, needs_received: bool
    ) -> tuple[Float[Tensor, "T D"], Float[Tensor, "T"] | None]:
        """Return the states after the attention block, and what attention each token receives."""
        ...


def renormalise_frozen(tokens: Packed, before: Layer, layer: Layer) -> Packed:
    """Give frozen states, which `before` normed, the scale and shift of this layer's norm."""
    old, new = before.last_norm, layer.last_norm
    if old is None or new is None or tokens.active is None:
        return tokens
    scale = torch.where(old.weight.abs() < NO_SCALE, torch.ones_like(old.weight), old.weight)
    renormed = ((tokens.hidden - old.bias) / scale * new.weight + new.bias).to(tokens.hidden.dtype)
    return tokens.replace(hidden=torch.where(tokens.active[:, None], tokens.hidden, renormed))
