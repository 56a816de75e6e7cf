"""The interface of the attentions: size, inputs and output."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor, nn

from fewer._validation.settings import checked, settings
from fewer._validation.types import Count, Natural, Probability

__all__ = ["Attention", "AttentionSpec", "Heads", "Mask", "States", "split_heads"]

Heads = Float[Tensor, "B H n d"]
States = Float[Tensor, "B n D"]
Mask = Bool[Tensor, "B n"]


@settings
class AttentionSpec:
    """The size of one layer's attention.

    Raises `ValueError` for sizes below 1 and a dropout outside [0, 1).
    """

    heads: Count
    width: Count  # of a head
    hidden: Count  # of a token's state
    max_length: Count  # columns, [CLS] included
    dropout: Probability = 0.0  # of the attention probabilities, where a method forms any
    layer: Natural = 0  # its number: layers draw different random numbers


class Attention(nn.Module):
    """Attention over texts that start at column 0 and are padded to the longest.

    The output of a text depends on its tokens only, neither on the number of columns nor on the
    states of padding. At padding the output is finite and otherwise undefined.
    """

    # Projections that `forward` uses. A model has no others, and may pass any tensor of the same
    # shape in place of an unused one.
    inputs: tuple[str, ...] = ("q", "k", "v")

    @checked
    def __init__(self, spec: AttentionSpec) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, q: Heads, k: Heads, v: Heads, hidden: States, mask: Mask) -> Heads:
        """Attend; `mask` is true at tokens, of which each text has at least one."""
        raise NotImplementedError

    @property
    def dropout(self) -> float:
        """Dropout probability in the current mode."""
        return self.spec.dropout if self.training else 0.0

    def check_length(self, columns: int) -> None:
        """Raise `ValueError` for texts longer than `max_length`."""
        if columns > self.spec.max_length:
            raise ValueError(
                f"max_length of {type(self).__name__} must be at least the number of columns, "
                f"{columns}; got {self.spec.max_length}. Truncate the texts or raise it."
            )


def split_heads(states: Float[Tensor, "B n H*d"], heads: int) -> Heads:
    """Split projected states into heads."""
    heads_first: Tensor = states.unflatten(-1, (heads, -1)).transpose(1, 2)
    return heads_first
