"""What every attention of the arena is given, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor, nn

__all__ = ["Attention", "AttentionShape", "Heads", "Mask", "States", "apart", "positive"]

Heads = Float[Tensor, "B H n d"]
States = Float[Tensor, "B n D"]
Mask = Bool[Tensor, "B n"]


@dataclass(frozen=True)
class AttentionShape:
    """Of which size one layer's attention is made.

    Raises `ValueError` for sizes below 1 and a dropout outside [0, 1).
    """

    heads: int
    width: int  # of a head
    hidden: int  # of a token's state
    max_length: int  # columns, [CLS] included
    dropout: float = 0.0  # of the attention probabilities, where a method forms any
    layer: int = 0  # its number: layers draw different random numbers

    def __post_init__(self) -> None:
        """Refuse what has no size."""
        sizes = (self.heads, self.width, self.hidden, self.max_length)
        if min(sizes) < 1 or not 0 <= self.dropout < 1 or self.layer < 0:
            raise ValueError(
                f"got {self}, wanted sizes of 1 or more, a dropout in [0, 1) and a layer from 0 on"
            )


class Attention(nn.Module):
    """Reads texts side by side, each from column 0 on, padded to the longest.

    A text's context depends on its own tokens only, not on the number of columns nor on what stands
    at padding; what comes out at padding is finite, and means nothing.
    """

    # Projections of the layer's input that it reads. A model makes no others, and may give anything
    # of the same shape in their place.
    reads: tuple[str, ...] = ("q", "k", "v")

    def __init__(self, shape: AttentionShape) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, q: Heads, k: Heads, v: Heads, hidden: States, mask: Mask) -> Heads:
        """Attend; `mask` is true at real tokens, of which every text has one at least."""
        raise NotImplementedError

    @property
    def dropout(self) -> float:
        """Share of the attention probabilities that is dropped now."""
        return self.shape.dropout if self.training else 0.0

    def refuse_longer(self, columns: int) -> None:
        """Raise `ValueError` for texts that the parameters are too few for."""
        if columns > self.shape.max_length:
            raise ValueError(
                f"{type(self).__name__} got {columns} columns, wanted at most the "
                f"{self.shape.max_length} that it was made for: cut the texts, or raise max_length"
            )


def apart(states: Float[Tensor, "B n H*d"], heads: int) -> Heads:
    """Tell the heads of projected states apart."""
    by_head: Tensor = states.unflatten(-1, (heads, -1)).transpose(1, 2)
    return by_head


def positive(name: str, value: int) -> int:
    """Return a setting. Raises `ValueError` if it is below 1."""
    if value < 1:
        raise ValueError(f"{name} is {value}, wanted 1 or more")
    return value
