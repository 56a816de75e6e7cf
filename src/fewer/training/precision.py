"""The number format for training: timed on this device, or chosen by name."""

from __future__ import annotations

import time
from typing import Literal

import torch

__all__ = ["Precision", "choose"]

Precision = Literal["auto", "fp32", "bf16", "fp16"]
MIN_SPEEDUP = 1.5  # of a lower format, to be worth its rounding


def choose(precision: Precision, device: torch.device) -> Literal["fp32", "bf16", "fp16"]:
    """Resolve `auto` by timing a feed-forward product in fp32 and bf16 on the device.

    Any other precision is checked and returned.

    Raises `ValueError` for an unknown name or a format that the device lacks.
    """
    if precision not in ("auto", "fp32", "bf16", "fp16"):
        raise ValueError(f"precision must be 'auto', 'fp32', 'bf16' or 'fp16'; got {precision!r}.")
    if precision == "fp16" and device.type == "cpu":
        raise ValueError(
            "precision must be 'auto', 'bf16' or 'fp32' on a CPU, where fp16 gradients underflow "
            "without loss scaling; got 'fp16'. Use a GPU, or another precision."
        )
    if precision != "auto":
        return precision
    fp32_seconds, bf16_seconds = (
        _time_product(dtype, device) for dtype in (torch.float32, torch.bfloat16)
    )
    return "bf16" if fp32_seconds > MIN_SPEEDUP * bf16_seconds else "fp32"


def _time_product(dtype: torch.dtype, device: torch.device) -> float:
    x, w = (
        torch.ones(2048, 384, dtype=dtype, device=device),
        torch.ones(1536, 384, dtype=dtype, device=device),
    )
    times = []
    for _ in range(8):
        start = time.perf_counter()
        float(torch.nn.functional.linear(x, w)[0, 0])  # reading a value waits for the device
        times.append(time.perf_counter() - start)
    return min(times)
