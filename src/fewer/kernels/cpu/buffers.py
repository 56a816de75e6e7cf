"""A pool of buffers for large outputs.

The system allocates large blocks page by page and clears each on first touch, which took a tenth of
a pass. A block is reused once no tensor refers to it any more, so no live tensor is overwritten.
"""

from __future__ import annotations

import sys
import threading

import torch
from torch import Tensor

from fewer.kernels.cpu.guard import is_pure_inference

__all__ = ["empty", "release", "zeros"]

MIN_BYTES = 1 << 16  # the allocator itself caches smaller blocks
MAX_BLOCKS = 8  # a layer needs four at a time


class _Blocks(threading.local):
    """The blocks of one thread, least recently used first."""

    def __init__(self) -> None:
        self.blocks: list[bytearray] = []


_pool = _Blocks()


def empty(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Return an uninitialised matrix, as `torch.empty` does."""
    size = rows * columns * dtype.itemsize
    if size < MIN_BYTES:
        return torch.empty(rows, columns, dtype=dtype)
    blocks = _pool.blocks
    index = next((i for i in range(len(blocks)) if _is_reusable(blocks, i, size)), None)
    block = bytearray(size + size // 4) if index is None else blocks.pop(index)
    blocks.append(block)
    if len(blocks) > MAX_BLOCKS:
        del blocks[0]  # tensors in it keep it alive
    return torch.frombuffer(block, dtype=dtype, count=rows * columns).view(rows, columns)


def zeros(rows: int, columns: int, like: Tensor) -> Tensor:
    """Return a writable matrix of zeros on the device and in the dtype of `like`."""
    if like.device.type != "cpu" or not is_pure_inference():
        return like.new_zeros(rows, columns)
    return empty(rows, columns, like.dtype).zero_()


def release() -> None:
    """Release the blocks of this thread."""
    _pool.blocks.clear()


def _is_reusable(blocks: list[bytearray], index: int, size: int) -> bool:
    fits = size <= len(blocks[index]) <= 4 * size
    return fits and _count_references(blocks, index) == _UNUSED


def _count_references(blocks: list[bytearray], index: int) -> int:
    return sys.getrefcount(blocks[index])


_UNUSED = _count_references([bytearray(1)], 0)
