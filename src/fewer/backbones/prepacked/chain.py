"""Prepacked layers of an encoder in one call of the compiled kernels.

Between two kernels the loop runs Python code, a third of the pass of one short text. Where nothing
is decided, or the attention received alone is looked at, a chain runs none.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import addressof, sizeof
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fewer.backbones.prepacked.layer import PrepackedLayer
from fewer.backbones.prepacked.post_norm import PrepackedPostNorm
from fewer.backbones.prepacked.pre_norm import PrepackedPreNorm
from fewer.backbones.rotary import FixedRotary
from fewer.core.packed import Packed
from fewer.kernels.cpu.buffers import empty
from fewer.kernels.cpu.library import ACTIVATIONS, best_isa, run_kernel
from fewer.kernels.cpu.ops import Norm, Weight, check_positions
from fewer.kernels.cpu.structs import (
    LayersStruct,
    LayerStruct,
    NormStruct,
    QueriesStruct,
    WeightStruct,
)
from fewer.kernels.relative import RelativeScores

__all__ = ["PrepackedChain"]

# States read by a thread at a time: what lies between the maps of a layer fits the nearer caches.
GROUP_NUMBERS = 512 * 384

_ChainedLayer = PrepackedPostNorm | PrepackedPreNorm


@dataclass(frozen=True)
class _Described:
    """Layers as the kernels read them."""

    address: int
    limit: int  # of positions, where they are rotated
    reads_columns: bool  # for windows and relative scores
    kept_alive: object


class PrepackedChain:
    """The prepacked layers of an encoder."""

    def __init__(self, layers: Sequence[_ChainedLayer]) -> None:
        self._layers = layers
        self._dtype = layers[0].isa.attention_dtype
        self._projected = max(layer.projections.struct.n for layer in layers)
        self._context = max(layer.output.struct.k for layer in layers)
        self._rotates = any(layer.rotary is not None for layer in layers)
        # whether the map of the queries ends where a panel does
        self.reads_some_rows = all(_part_projections(layer) is not None for layer in layers)
        self._described: _Described | None = None

    @classmethod
    def of(cls, layers: Sequence[Any]) -> PrepackedChain | None:
        """Chain the layers; `None` if one of them is not of the kind that the kernels chain."""
        if not layers or not isinstance(layers[0], PrepackedLayer):
            return None
        width = layers[0].projections.struct.k
        return cls(layers) if all(_fits(layer, width) for layer in layers) else None

    def run(
        self, tokens: Packed, first: int, stop: int, rows: Int[Tensor, "Tq"] | None = None
    ) -> Float[Tensor, "Tq D"]:
        """Return the states after some layers: as layer by layer, to the bit.

        Of these rows alone, where they are given, after one layer.
        """
        assert rows is None or stop == first + 1
        count = len(tokens.hidden) if rows is None else len(rows)
        attended, out = (empty(count, tokens.hidden.shape[1], torch.float32) for _ in range(2))
        self._call(tokens, first, stop - first, attended, out, rows=rows)
        return out

    def attend(
        self, tokens: Packed, layer: int, *, needs_received: bool
    ) -> tuple[Float[Tensor, "T D"], Float[Tensor, "T"] | None]:
        """Return the states after the attention block, and the attention received if needed."""
        rows, width = tokens.hidden.shape
        attended = empty(rows, width, torch.float32)
        received = torch.zeros(len(attended), dtype=torch.float32) if needs_received else None
        self._call(tokens, layer, 0, attended, received=received)
        return attended, received

    def _call(
        self,
        tokens: Packed,
        first: int,
        count: int,
        attended: Tensor,
        out: Tensor | None = None,
        received: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> None:
        x, cu, placement = tokens.hidden.float().contiguous(), tokens.cu, tokens.placement
        position = placement.position.long().contiguous() if self._rotates else None
        described = self._describe(position)
        column = placement.column.long().contiguous() if described.reads_columns else None
        queries, kept_alive = _queries(tokens, x, column, position, rows)
        threads = torch.get_num_threads()
        group = max(1, GROUP_NUMBERS // x.shape[1]) * threads
        group_rows = len(x) if len(x) <= group else max(group, int(cu.diff().max()))
        projected = empty(group_rows, self._projected, self._dtype)
        context = empty(group_rows, self._context, self._dtype)
        run_kernel(
            LayersStruct(
                described.address + first * sizeof(LayerStruct),
                count,
                x.data_ptr(),
                len(x),
                cu.numel() - 1,
                group,
                cu.data_ptr(),
                _pointer(column),
                _pointer(position),
                queries,
                projected.data_ptr(),
                context.data_ptr(),
                attended.data_ptr(),
                _pointer(out),
                _pointer(received),
                self._dtype is torch.bfloat16,
                threads,
            )
        )
        del kept_alive

    def _describe(self, position: Tensor | None) -> _Described:
        """Describe the layers at the first pass, without gradients, and for longer texts again."""
        described = self._described
        last = 0 if position is None or not position.numel() else int(position.max())
        if described is None or last >= described.limit:
            relative = [_prepare(layer.relative_scores()) for layer in self._layers]
            tables = [_tables(layer, last) for layer in self._layers]
            projections = [_part_projections(layer) for layer in self._layers]
            parts = zip(self._layers, projections, relative, tables, strict=True)
            structs = (LayerStruct * len(relative))(*(_struct(*each) for each in parts))
            limit = min((len(cos) for cos, _ in filter(None, tables)), default=1)
            reads = any(layer.pattern is not None for layer in self._layers) or any(
                scores is not None for scores in relative
            )
            described = _Described(
                addressof(structs), limit, reads, (structs, projections, relative, tables)
            )
            self._described = described
        if position is not None and position.numel():
            check_positions(position, len(position), described.limit)
        return described


def _fits(layer: Any, width: int) -> bool:
    """Return whether the kernels chain a layer: as many keys as queries, and one kind of map.

    Maps and norms that do not fit each other are left to the loop, which names them.
    """
    if not isinstance(layer, _ChainedLayer):
        return False
    ups = (layer.wide,) if layer.gate is None else (layer.wide, layer.gate)
    takes = [weight.struct.k for weight in (layer.projections, *ups)]
    gives = [weight.struct.n for weight in (layer.output, layer.narrow)]
    norms = [norm.gamma.numel() for norm in _norms(layer) if norm is not None]
    return (
        (layer.pattern is None or layer.pattern.is_window)
        and (layer.rotary is None or _turns(layer.rotary, layer.query_width // layer.plain.heads))
        and layer.projections.struct.n == 3 * layer.query_width == 3 * layer.output.struct.k
        and {weight.isa for weight in ups} == {layer.narrow.isa}
        and {weight.struct.n for weight in ups} == {layer.narrow.struct.k}
        and {*takes, *gives, *norms} == {width}
    )


def _turns(rotary: object, width: int) -> bool:
    """Return whether tables turn all of a head."""
    return isinstance(rotary, FixedRotary) and 2 * len(rotary.frequencies) == width


def _norms(layer: _ChainedLayer) -> tuple[Norm | None, ...]:
    """Return the norms before and after attention, before and after the feed-forward block."""
    if isinstance(layer, PrepackedPreNorm):
        return layer.attention_norm, None, layer.ffn_norm, None
    return None, layer.output_norm, None, layer.narrow_norm


def _prepare(relative: RelativeScores | None) -> RelativeScores | None:
    """Lay relative scores out as the kernel reads them."""
    if relative is None:
        return None
    relative = relative.map(torch.Tensor.contiguous)
    bias = None if relative.bias is None else relative.bias.float()
    return replace(relative, bucket=relative.bucket.int().contiguous(), bias=bias)


_Tables = tuple[Tensor, Tensor]


def _tables(layer: _ChainedLayer, last: int) -> _Tables | None:
    """Return cosines and sines up to a position, if the layer rotates."""
    return layer.rotary.tables(last) if isinstance(layer.rotary, FixedRotary) else None


def _part_projections(layer: _ChainedLayer) -> tuple[Weight, Weight] | None:
    """Return the map to queries, and that to keys and values; `None` where they share a panel."""
    rest = layer.projections.drop_first(layer.query_width)
    return None if rest is None else (layer.projections.take_first(layer.query_width), rest)


def _struct(
    layer: _ChainedLayer,
    projections: tuple[Weight, Weight] | None,
    relative: RelativeScores | None,
    tables: _Tables | None,
) -> LayerStruct:
    attention_isa = best_isa(layer.isa.attention_dtype)
    assert attention_isa is not None
    scores: tuple[int | None, ...] = (None, 0, None, None, None)
    if relative is not None:
        pointers = map(_pointer, (relative.key, relative.query, relative.bias))
        scores = relative.bucket.data_ptr(), relative.reach, *pointers
    return LayerStruct(
        *(NormStruct() if norm is None else norm.struct for norm in _norms(layer)),
        layer.projections.struct,
        *((WeightStruct(),) * 2 if projections is None else (part.struct for part in projections)),
        layer.output.struct,
        layer.wide.struct,
        WeightStruct() if layer.gate is None else layer.gate.struct,
        layer.narrow.struct,
        layer.plain.heads,
        *scores,
        -1 if layer.pattern is None else layer.pattern.window,
        *((None, None) if tables is None else map(_pointer, tables)),
        layer.rotates_values,
        ACTIVATIONS[layer.activation],
        layer.isa,
        layer.projections.isa,
        layer.output.isa,
        layer.wide.isa,
        attention_isa,
    )


def _queries(
    tokens: Packed,
    x: Tensor,
    column: Tensor | None,
    position: Tensor | None,
    rows: Tensor | None,
) -> tuple[QueriesStruct, tuple[Tensor | None, ...]]:
    """Describe the rows that are queries, if not all are; also return what must be kept alive."""
    if rows is None:
        return QueriesStruct(), ()
    cu = tokens.offsets(rows)
    selected = [None if part is None else part[rows] for part in (column, position)]
    states = x.index_select(0, rows)
    described = QueriesStruct(states.data_ptr(), len(rows), cu.data_ptr(), *map(_pointer, selected))
    return described, (states, cu, *selected)


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
