"""Merging of pruned tokens in one call, on the compiled kernels."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fewer.kernels.cpu.buffers import empty
from fewer.kernels.cpu.guard import is_pure_inference
from fewer.kernels.cpu.library import run_kernel, unavailable_reason
from fewer.kernels.cpu.structs import MergeStruct

__all__ = ["merge", "supports"]


def supports(hidden: Tensor) -> bool:
    """Return whether the compiled kernel can merge these states."""
    on_cpu = hidden.device.type == "cpu" and hidden.dtype is torch.float32
    return on_cpu and is_pure_inference() and unavailable_reason() is None


def merge(
    keep: Bool[Tensor, "T"],
    spared: Bool[Tensor, "T"],
    scores: Float[Tensor, "T"],
    hidden: Float[Tensor, "T D"],
    cu: Int[Tensor, "B+1"],
    least: float,
) -> tuple[Bool[Tensor, "T"], Float[Tensor, "T D"]]:
    """Return which tokens stay and all states, where some are merged.

    In each text those that are neither kept nor spared are merged into the best of them, the
    earliest of equal ones: it stays with their mean, weighted by scores, of which none is below
    `least`.
    """
    rows, width = hidden.shape
    parts = [part.contiguous() for part in (hidden, scores.float(), keep, spared)]
    for part in parts:
        if len(part) != rows:
            raise ValueError(f"keep, spared, scores must have {rows} rows; got {len(part)}.")
    is_kept, states = torch.empty(rows, dtype=torch.bool), empty(rows, width, torch.float32)
    run_kernel(
        MergeStruct(
            *(part.data_ptr() for part in parts),
            cu.data_ptr(),
            cu.numel() - 1,
            width,
            least,
            is_kept.data_ptr(),
            states.data_ptr(),
        )
    )
    return is_kept, states
