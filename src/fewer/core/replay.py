"""Run all layers of a pass that decides nothing by a CUDA graph of its bucket of sizes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fewer.core.packed import Packed, Placement, TextRoles
from fewer.kernels.gpu.graphs import GraphCache, bucket

__all__ = ["Graphs", "replay"]

MAX_NUMBERS = 12 << 20  # in the states of a bucket: beyond it the device is slower than the host
FEWEST_TEXTS = 8


@dataclass(frozen=True)
class Graphs:
    """The graphs of a model as it is now."""

    cache: GraphCache
    model: Hashable  # changes with whatever a graph was captured from


def replay(tokens: Packed, run_layers: Callable[[Packed], Packed], graphs: Graphs) -> Tensor | None:
    """Return the states after all layers, `(T, D)`; `None` for batches that have no graph.

    `run_layers` must not remove tokens. It gets rows that fill a bucket up, as a text of their own.
    """
    placement, roles = tokens.placement, tokens.roles
    if roles.second_text is not None or roles.global_tokens is not None:
        return None
    count, texts = tokens.slot.numel(), tokens.grid[0]
    size = bucket(count)
    if size * tokens.hidden.shape[1] > MAX_NUMBERS:
        return None
    fill, rows = size - count, bucket(texts + 1, FEWEST_TEXTS)
    columns, is_consecutive = bucket(max(tokens.grid[1], fill)), placement.is_consecutive
    starts = F.pad(placement.cu, (0, rows - 1 - texts), value=count)  # empty texts
    inputs = (
        F.pad(tokens.hidden, (0, 0, 0, fill)),
        F.pad(placement.position, (0, fill)),
        F.pad(placement.column, (0, fill)),
        F.pad(placement.sequence, (0, fill), value=rows - 1),
        F.pad(starts, (0, 1), value=size),
        F.pad(placement.extent, (0, rows - texts), value=fill),
    )

    def compute(hidden: Tensor, position: Tensor, column: Tensor, *places: Tensor) -> Tensor:
        sequence, cu, extent = places
        slot, grid = sequence * columns + column, (rows, columns)
        position = position[:]  # a new object: what layers keep by position is computed again
        static = Placement(sequence, position, slot, cu, extent, grid, is_consecutive)
        protected = torch.ones_like(sequence, dtype=torch.bool)
        return run_layers(Packed(hidden, static, TextRoles(protected))).hidden

    key = (graphs.model, size, rows, columns, tokens.hidden.dtype, is_consecutive)
    return graphs.cache.run(key, compute, inputs)[:count]
