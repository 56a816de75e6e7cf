"""The interface of a backbone: embedding, layers, final norm, pooling and their cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from fewer.core.cost import LayerCost, ModelSpec, linear_flops
from fewer.core.layer import Layer, LayerChain

__all__ = ["Backbone", "BackboneLayer", "Tokens", "split_heads", "while_training"]


@dataclass(frozen=True)
class Tokens:
    """The packed input of an encoder: ids or embeddings, positions, segments."""

    ids: Int[Tensor, "T"] | None
    embeds: Float[Tensor, "T E"] | None
    position: Int[Tensor, "T"]
    segment: Int[Tensor, "T"] | None

    def words(self, table: nn.Embedding) -> Float[Tensor, "T E"]:
        """Look the ids up in `table`, or return the input embeddings."""
        if self.embeds is not None:
            return self.embeds
        assert self.ids is not None  # packing checked that one of the two is there
        if hasattr(table, "neftune_noise_alpha"):  # its noise counts the padded length
            raise ValueError(
                "neftune_noise_alpha must be None while fewer is attached, which reads no padding; "
                f"got {table.neftune_noise_alpha}. Train without it, or fewer.detach(model)."
            )
        embeddings: Tensor = table(self.ids)
        return embeddings


class BackboneLayer(Layer, Protocol):
    """A layer with its cost."""

    @property
    def cost(self) -> LayerCost:
        """FLOPs of its matrices."""
        ...


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """An adapter of one encoder.

    Each pass builds a new one from the encoder, so that copies of a model use their own weights.
    """

    embed: Callable[[Tokens], Float[Tensor, "T D"]]
    layers: Sequence[BackboneLayer]
    finish: Callable[[Float[Tensor, "T D"]], Float[Tensor, "T D"]] = nn.Identity()  # noqa: RUF009
    pool: Callable[[Float[Tensor, "B N D"]], Float[Tensor, "B D"]] | None = None
    hidden_size: int
    heads: int
    projections: tuple[nn.Module, ...] = ()  # between embeddings and first layer; read by the cost
    vocabulary: int
    segments: int = 0  # number of segment ids; 0 if the architecture has none
    max_positions: int | None = None  # rows of the position table; None if positions are computed
    output: Callable[..., Any] = BaseModelOutputWithPooling  # of the encoder
    padding_id: int | None = None  # if set, positions count the other ids, from padding_id + 1 on
    mask_marks_global: bool = False  # whether a 2 in the attention mask means global attention
    strict_mask: bool = False  # whether transformers computes with mask values other than 0 and 1
    chain: LayerChain | None = None  # runs several layers at once where nothing is decided

    @property
    def max_tokens(self) -> int | None:
        """Maximum tokens per text; `None` for any length."""
        if self.max_positions is None or self.padding_id is None:
            return self.max_positions
        return self.max_positions - self.padding_id - 1

    @property
    def shape(self) -> ModelSpec:
        """The sizes and costs that methods may read; computed at each call."""
        costs = tuple(layer.cost for layer in self.layers)
        embed = linear_flops(*self.projections)
        sizes = len(costs), self.hidden_size, self.heads
        return ModelSpec(*sizes, embed, costs, vocabulary=self.vocabulary)


def while_training(module: nn.Module, dropout: float) -> float:
    """Return `dropout` if `module` is in training mode, else 0."""
    return dropout if module.training else 0.0


def split_heads(projected: Float[Tensor, "T H*d"], heads: int) -> Float[Tensor, "T H d"]:
    """Split the width into heads."""
    states: Tensor = projected.unflatten(-1, (heads, -1))
    return states
