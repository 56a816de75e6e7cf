"""What a model costs: FLOPs (a multiply-add is 2), from the rows that pass through each layer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.trace import LayerTrace, SparseCounts, Trace
from fewer.kernels.pattern import Pattern
from fewer.kernels.sparse import dense_pairs

__all__ = ["WHOLE_TEXT", "LayerCost", "ModelSpec", "Task", "lengths_of", "linear_flops"]


def linear_flops(*modules: nn.Module) -> float:
    """FLOPs a token of linear maps, adapters included: 2 for each entry of their matrices."""
    return float(
        sum(
            2 * weight.numel()
            for module in modules
            for part in module.modules()
            for weight in part._parameters.values()  # `parameters()` takes five times as long
            if weight is not None and weight.ndim == 2
        )
    )


@dataclass(frozen=True)
class LayerCost:
    """FLOPs a token of each projection, and a (query, key) pair of the attention.

    Norms and softmax are not counted.
    """

    query: float
    key_value: float
    output: float
    ffn: float
    pair: float  # both matrix products, all heads: 4 * D
    score: float  # summing attention received: one addition a head
    pattern: Pattern | None = None  # which pairs there are; None: all of a text
    # in a layer with scores by distance: products of a query, and of a key, with its relative
    # positions, part of `query` and `key_value`; projecting the positions is not counted, since no
    # text changes it
    relative: tuple[float, float] | None = None

    def flops(self, layer: LayerTrace) -> Float[Tensor, "B"]:
        """FLOPs of one layer for each text; differentiable where the trace is."""
        extra = layer.extra
        pairs = layer.queries * layer.keys if extra.pairs is None else extra.pairs
        separate = extra.separate_projections
        queries, keys = (0.0, 0.0) if separate is None else separate
        return (
            self.query * queries
            + self.key_value * keys
            + self.key_value * layer.keys
            + (self.query + self.output) * layer.queries
            + (self.pair + (self.score if layer.scored else 0.0)) * pairs
            + self.ffn * layer.read
        )


class Task(Enum):
    """The kind of answer that a model's head gives."""

    OTHER = "other"  # a masked language model, hidden states
    TEXT = "text"  # one class or number per text
    MULTI_LABEL = "multi_label"  # any number of labels per text, each with a logit of its own
    VECTOR = "vector"  # several numbers per text
    TOKEN = "token"  # one tag per token
    SPAN = "span"  # start and end of the answer to a question, within a passage


WHOLE_TEXT = (Task.TEXT, Task.MULTI_LABEL, Task.VECTOR)  # one row of logits per text


@dataclass(frozen=True)
class ModelSpec:
    """What a method may know of a model before it is built."""

    num_layers: int
    hidden_size: int
    heads: int
    embed: float  # FLOPs a token of projections between embeddings and first layer
    layers: tuple[LayerCost, ...]
    labels: int = 0  # outputs of the model's own head; 0 where it has none
    task: Task = Task.OTHER  # of that head
    reads_first_token: bool = False  # whether that head reads the first token and no other
    vocabulary: int = 0  # ids of tokens are below it

    def flops(self, trace: Trace) -> Float[Tensor, "B"]:
        """FLOPs that a pass really took, for each text (fp32), the policy's own heads included."""
        counts = [cost.flops(layer) for cost, layer in self._pairs(trace)]
        total = torch.stack([self.embed * lengths_of(trace), *counts]).sum(0)
        return total if trace.head_flops is None else total + trace.head_flops

    def dense_flops(
        self,
        lengths: Float[Tensor, "B"],
        separate_projections: tuple[Tensor, Tensor] | None = None,
    ) -> Float[Tensor, "B"]:
        """FLOPs of texts of these lengths when every token reads every layer.

        Of a padded batch it is `B * dense_flops(N)`. A model that reads by a pattern of its own
        keeps to it; `separate_projections` are those of global tokens (`SparseCounts`), if any,
        whose few pairs are left out.
        """
        n = lengths.detach()
        pairs = {
            pattern: None if pattern is None else dense_pairs(pattern, n, self.heads)
            for pattern in {cost.pattern for cost in self.layers}
        }
        full = {
            pattern: LayerTrace(
                n,
                n,
                n,
                scored=False,
                count_extra=partial(
                    SparseCounts, count, None if count is None else separate_projections
                ),
            )
            for pattern, count in pairs.items()
        }
        layers = torch.stack([cost.flops(full[cost.pattern]) for cost in self.layers])
        return layers.sum(0) + self.embed * n

    def dense_flops_of(self, trace: Trace) -> Float[Tensor, "B"]:
        """FLOPs that the texts of a pass would have taken with every token in every layer."""
        return self.dense_flops(
            lengths_of(trace), trace.layers[0].extra.separate_projections if trace.layers else None
        )

    def flops_ratio(self, trace: Trace) -> Float[Tensor, ""]:
        """FLOPs of a pass over those of the same texts without pruning; differentiable."""
        return self.flops(trace).sum() / self.dense_flops_of(trace).sum()

    def _pairs(self, trace: Trace) -> list[tuple[LayerCost, LayerTrace]]:
        return list(zip(self.layers, trace.layers, strict=False))  # a pass may stop early


def lengths_of(trace: Trace) -> Float[Tensor, "B"]:
    """Return the tokens of each text as it came."""
    return trace.layers[0].keys if trace.lengths is None else trace.lengths
