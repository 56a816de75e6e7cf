"""Look up where masks are True without making the host wait more than once.

On a GPU, every `nonzero` waits for all that was queued before it, to learn how many rows it has.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

__all__ = ["can_look", "partition"]


def can_look(tensor: Tensor) -> bool:
    """Return whether reading a value of this tensor is free: on a CPU, where nothing is queued."""
    return tensor.device.type == "cpu"


def partition(
    *masks: Bool[Tensor, "N"], count: int | None = None
) -> list[tuple[Int[Tensor, "K"], Int[Tensor, "N-K"]]]:
    """Return the rows where each mask is True, and those where it is False, all ascending.

    The host waits for the device once, for all masks together; not for one mask of `count` rows.
    """
    if can_look(masks[0]):
        return [_split_on_host(mask) for mask in masks]
    ordered, totals = zip(*map(_order, masks), strict=True)
    counts = torch.stack(totals).tolist() if count is None else [count]
    return [(order[:count], order[count:]) for order, count in zip(ordered, counts, strict=True)]


def _split_on_host(mask: Tensor) -> tuple[Tensor, Tensor]:
    rows = mask.nonzero().squeeze(1)
    return rows, rows[:0] if len(rows) == len(mask) else (~mask).nonzero().squeeze(1)


def _order(mask: Tensor) -> tuple[Tensor, Tensor]:
    """List the rows where the mask is True before the others, and count them, on the device."""
    before = mask.cumsum(0)
    total = before[-1] if len(mask) else before.sum()
    row = torch.arange(len(mask), device=mask.device)
    place = torch.where(mask, before - 1, total + row - before)
    return torch.empty_like(row).scatter_(0, place, row), total
