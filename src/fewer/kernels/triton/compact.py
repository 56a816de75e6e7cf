"""What is known of the tokens that stay, moved together in one launch on a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

from fewer.kernels.triton.compact_program import compact_program

__all__ = ["compact_columns"]

BLOCK = 1024


def compact_columns(
    alive: Tensor,
    before: Tensor,
    cu: Tensor,
    columns: tuple[Tensor, Tensor, Tensor],
    protected: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return `(5, T)` integers, `(T,)` flags and the new offsets; those that stay come first.

    The integers are the rows that stay, the three columns at these rows, and the rows that go.
    `before` counts the tokens that are alive up to each, itself included.
    """
    count, bounds = len(alive), len(cu)
    integers = before.new_empty(5, count)
    kept_protected, kept_cu = torch.empty_like(protected), torch.empty_like(cu)
    rows, *kept_columns, gone = integers.unbind(0)
    blocks = -(-max(count, bounds) // BLOCK)
    with torch.cuda.device_of(alive):
        compact_program[(blocks,)](
            alive.view(torch.uint8),
            before,
            cu,
            *columns,
            protected.view(torch.uint8),
            rows,
            gone,
            *kept_columns,
            kept_protected.view(torch.uint8),
            kept_cu,
            count,
            bounds,
            BLOCK=BLOCK,
        )
    return integers, kept_protected, kept_cu
