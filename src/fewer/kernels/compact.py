"""Take the tokens that stay out of what is known of all, with one look at a GPU at most."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from fewer.kernels.cpu.guard import is_observed
from fewer.kernels.triton.support import unavailable_reason

__all__ = ["Compacted", "compact"]


class Compacted(NamedTuple):
    """The rows that stay and that go, ascending, and the columns of those that stay."""

    rows: Int[Tensor, "K"]
    sequence: Int[Tensor, "K"]
    position: Int[Tensor, "K"]
    slot: Int[Tensor, "K"]
    gone: Int[Tensor, "T-K"]
    protected: Bool[Tensor, "K"]
    cu: Int[Tensor, "B+1"]


def compact(
    alive: Bool[Tensor, "T"],
    cu: Int[Tensor, "B+1"],
    columns: tuple[Int[Tensor, "T"], Int[Tensor, "T"], Int[Tensor, "T"]],
    protected: Bool[Tensor, "T"],
    count: int | None = None,
) -> Compacted:
    """Select the columns (sequence, position, slot) of the tokens that are alive.

    The host waits for the device once, to learn how many stay, unless it knows their `count`. On a
    GPU with Triton one launch does it after a cumulative sum: PyTorch's operators take ten.
    """
    before = alive.cumsum(0)
    program = _program() if alive.is_cuda and len(alive) and not is_observed() else None
    integers, kept_protected, kept_cu = (program or _by_torch)(
        alive, before, cu, columns, protected
    )
    if count is None:
        count = int(before[-1]) if len(alive) else 0
    rows, sequence, position, slot = integers[:4, :count].unbind(0)
    gone = integers[4, : len(alive) - count]
    return Compacted(rows, sequence, position, slot, gone, kept_protected[:count], kept_cu)


Program = Callable[..., tuple[Tensor, Tensor, Tensor]]


@cache
def _program() -> Program | None:
    """Return the Triton kernel's launch, `None` where it cannot run. Triton is imported here."""
    if unavailable_reason():
        return None
    launch: Program = import_module("fewer.kernels.triton.compact").compact_columns
    return launch


def _by_torch(
    alive: Tensor,
    before: Tensor,
    cu: Tensor,
    columns: tuple[Tensor, Tensor, Tensor],
    protected: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Do what the Triton kernel does, by PyTorch's operators."""
    count = len(alive)
    row = torch.arange(count, device=alive.device)
    total = before[-1:]
    place = torch.where(alive, before - 1, total + row - before)
    order = torch.empty_like(row).scatter_(0, place, row)
    gone = order.roll(-1) if not count else order[(row + total).clamp_max(count - 1)]
    selected = [column[order] for column in columns]
    starts = torch.nn.functional.pad(before, (1, 0))[cu]
    return torch.stack([order, *selected, gone]), protected[order], starts
