"""What every backbone is: embed, layers, finish, pool, and what each costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer.core.cost import LayerCost, Shape
from fewer.core.encode import Layer

__all__ = ["Backbone", "Tokens", "linear_flops", "shape", "split_heads"]


@dataclass(frozen=True)
class Tokens:
    """The packed input of an encoder: ids or embeddings, positions, segments."""

    ids: Int[Tensor, "T"] | None
    embeds: Float[Tensor, "T E"] | None
    position: Int[Tensor, "T"]
    segment: Int[Tensor, "T"] | None

    def words(self, table: nn.Embedding) -> Float[Tensor, "T E"]:
        """Look the ids up in `table`, or return the given embeddings."""
        if self.embeds is not None:
            return self.embeds
        assert self.ids is not None  # the border checked that one of the two is given
        found: Tensor = table(self.ids)
        return found


@dataclass(frozen=True)
class Backbone:
    """A view of one encoder.

    It is made anew for each pass, from the encoder itself, so that copies use their own weights.
    """

    embed: Callable[[Tokens], Float[Tensor, "T D"]]
    layers: Sequence[Layer]
    finish: Callable[[Float[Tensor, "T D"]], Float[Tensor, "T D"]]
    pool: Callable[[Float[Tensor, "B N D"]], Float[Tensor, "B D"]] | None
    shape: Shape
    vocabulary: int
    segments: int  # how many segment ids there are; 0 where the architecture has none
    max_positions: int | None  # rows of the position table; None where positions are computed
    padding_id: int | None = None  # if set, only other ids are numbered, from padding_id + 1 on

    @property
    def max_tokens(self) -> int | None:
        """The longest text in tokens; `None` for any length."""
        if self.max_positions is None or self.padding_id is None:
            return self.max_positions
        return self.max_positions - self.padding_id - 1


def linear_flops(*modules: nn.Module) -> float:
    """FLOPs a token of linear maps, adapters included: 2 for each entry of their matrices."""
    return float(
        sum(
            2 * weight.numel()
            for module in modules
            for weight in module.parameters()
            if weight.ndim == 2
        )
    )


def split_heads(projected: Float[Tensor, "T H*d"], heads: int) -> Float[Tensor, "T H d"]:
    """Cut the width into heads."""
    cut: Tensor = projected.unflatten(-1, (heads, -1))
    return cut


def shape(
    layers: Sequence[LayerCost], hidden_size: int, heads: int, *projections: nn.Module
) -> Shape:
    """Gather the costs of a model whose embeddings pass through `projections` first."""
    return Shape(len(layers), hidden_size, heads, linear_flops(*projections), tuple(layers))
