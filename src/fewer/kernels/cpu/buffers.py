"""Large results in memory that was used before.

The system hands out large blocks page by page, each cleared on first touch: that took a tenth of a
pass. A block is used again once no tensor lies in it any more, so nothing is ever overwritten.
"""

from __future__ import annotations

import sys
import threading

import torch
from torch import Tensor

from fewer.kernels.cpu.guard import only_numbers_matter

__all__ = ["empty", "release", "zeros"]

SMALL = 1 << 16  # bytes; below it the allocator keeps memory at hand by itself
KEPT = 8  # blocks at most; a layer needs four at a time


class _Blocks(threading.local):
    """The blocks of one thread, least recently used first."""

    def __init__(self) -> None:
        self.held: list[bytearray] = []


_blocks = _Blocks()


def empty(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Return a matrix of any numbers, as `torch.empty` does."""
    size = rows * columns * dtype.itemsize
    if size < SMALL:
        return torch.empty(rows, columns, dtype=dtype)
    held = _blocks.held
    place = next((i for i in range(len(held)) if _fits(held, i, size)), None)
    block = bytearray(size + size // 4) if place is None else held.pop(place)
    held.append(block)
    if len(held) > KEPT:
        del held[0]  # tensors in it keep it alive
    return torch.frombuffer(block, dtype=dtype, count=rows * columns).view(rows, columns)


def zeros(rows: int, columns: int, like: Tensor) -> Tensor:
    """Return a matrix of zeros where `like` lies, in its dtype; it may be written to."""
    if like.device.type != "cpu" or not only_numbers_matter():
        return like.new_zeros(rows, columns)
    return empty(rows, columns, like.dtype).zero_()


def release() -> None:
    """Let go of this thread's blocks."""
    _blocks.held.clear()


def _fits(held: list[bytearray], place: int, size: int) -> bool:
    return size <= len(held[place]) <= 4 * size and _references(held, place) == _UNUSED


def _references(held: list[bytearray], place: int) -> int:
    return sys.getrefcount(held[place])


_UNUSED = _references([bytearray(1)], 0)
