"""Rotary positions: queries and keys are rotated by angles that grow with the original position."""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fewer.core.removed import gather_rows
from fewer.kernels.cpu.library import Isa
from fewer.kernels.cpu.ops import rotate

__all__ = [
    "FixedRotaryPositions",
    "Rotary",
    "RotaryPositions",
    "TableRotary",
    "bind_rotary",
    "refuse_batch_dependent",
]

BLOCK = 1024  # positions whose angles are computed together, in fixed blocks


class RotaryPositions(Protocol):
    """Rotates the states of tokens by their positions."""

    def __call__(
        self,
        states: Float[Tensor, "Tq H d"],
        position: Int[Tensor, "T"],
        rows: Int[Tensor, "Tq"] | None = None,
    ) -> Float[Tensor, "Tq H d"]:
        """Rotate each head of the tokens in `rows` (`None` = all); the dtype stays."""
        ...

    def fixed(self) -> FixedRotaryPositions:
        """Return the same rotation for compiled kernels: equal bits in every batch."""
        ...


class FixedRotaryPositions(Protocol):
    """Rotates the outputs of a fused projection in place."""

    def rotate(
        self, states: Float[Tensor, "T W"], head_width: int, position: Int[Tensor, "T"], isa: Isa
    ) -> None:
        """Rotate each head of the tokens, in fp32; the dtype stays."""
        ...


class Rotary:
    """The rotary embedding of layers of one kind, in one pass: pairs (i, i + d/2)."""

    def __init__(self, frequencies: Float[Tensor, "d/2"], scaling: float) -> None:
        self.frequencies = frequencies
        self.scaling = scaling  # of cosine and sine
        self._last: tuple[Tensor, tuple[Tensor, Tensor]] | None = None

    def __call__(self, states: Tensor, position: Tensor, rows: Tensor | None = None) -> Tensor:
        """Rotate in fp32; layers that prune no token share cosine and sine."""
        last = self._last
        if last is None or last[0] is not position:
            cos, sin = _angles(position, self.frequencies, self.scaling)
            last = self._last = position, (cos[:, None], sin[:, None])
        cos, sin = (gather_rows(table, rows) for table in last[1])
        return _rotate_halves(states, cos, sin)

    def fixed(self) -> FixedRotary:
        """Compute angles in blocks of positions, whatever the batch."""
        return FixedRotary(tuple(self.frequencies.float().tolist()), self.scaling)


class FixedRotary:
    """A rotary embedding with cosines and sines of fixed blocks of positions."""

    def __init__(self, frequencies: tuple[float, ...], scaling: float) -> None:
        self.frequencies = frequencies
        self.scaling = scaling

    def rotate(self, states: Tensor, head_width: int, position: Tensor, isa: Isa) -> None:
        """Rotate pairs (i, i + d/2)."""
        last = int(position.max()) if position.numel() else 0
        rotate(states, head_width, self.tables(last), position, isa)

    def tables(self, last: int) -> tuple[Float[Tensor, "P d"], Float[Tensor, "P d"]]:
        """Return cosines and sines of positions up to `last`, and more."""
        return _blocks(self.frequencies, self.scaling, last // BLOCK + 1)


class TableRotary:
    """A rotary embedding in a table, of sines, then cosines: pairs (2i, 2i + 1)."""

    def __init__(self, table: Float[Tensor, "N d"]) -> None:
        self.table = table

    def __call__(self, states: Tensor, position: Tensor, rows: Tensor | None = None) -> Tensor:
        """Rotate in the dtype of the table."""
        entries = self.table.index_select(0, gather_rows(position, rows))
        sin, cos = entries[:, None].chunk(2, dim=-1)
        first, second = states.to(self.table.dtype).unflatten(-1, (-1, 2)).unbind(-1)
        pairs = torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1)
        return pairs.flatten(-2).to(states.dtype)

    def rotate(self, states: Tensor, head_width: int, position: Tensor, isa: Isa) -> None:
        """Rotate pairs (2i, 2i + 1), by torch."""
        heads = states.unflatten(-1, (-1, head_width))
        heads.copy_(self(heads, position))

    def fixed(self) -> TableRotary:
        """Return itself: no entry depends on the batch."""
        return self


def bind_rotary(rotary: Any) -> Rotary:
    """Adapt a rotary module of transformers with one kind of layer. Raises `ValueError`."""
    refuse_batch_dependent(rotary.rope_type, "rope_type")
    return Rotary(rotary.inv_freq, float(rotary.attention_scaling))


def refuse_batch_dependent(rope_type: str, name: str) -> None:
    """Raise `ValueError` for rotary angles that depend on the longest text of the batch."""
    if "dynamic" in rope_type or rope_type == "longrope":
        raise ValueError(
            f"{name} must not depend on the batch; got {rope_type!r}. Load the model with "
            "rope_type 'default', 'linear' or 'yarn', or do without fewer.attach."
        )


def _angles(position: Tensor, frequencies: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """Return cos and sin of the rotary angles, `(T, d)` each, in fp32, times `scaling`."""
    angle = position[:, None].float() * frequencies.float()  # (T, d/2)
    angle = torch.cat((angle, angle), dim=-1)  # (T, d)
    return angle.cos() * scaling, angle.sin() * scaling


def _rotate_halves(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs (i, i + d/2) in fp32."""
    first, second = states.float().chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (states.float() * cos + turned * sin).to(states.dtype)


@cache
@torch.inference_mode(False)
def _blocks(frequencies: tuple[float, ...], scaling: float, blocks: int) -> tuple[Tensor, Tensor]:
    """Return cos and sin `(positions, d)`; no entry depends on the number of blocks."""
    tables = [
        _angles(
            torch.arange(block * BLOCK, (block + 1) * BLOCK), torch.tensor(frequencies), scaling
        )
        for block in range(blocks)
    ]
    cos, sin = zip(*tables, strict=True)
    return torch.cat(cos), torch.cat(sin)
