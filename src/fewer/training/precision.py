"""Which number format trains fastest here, found out by trying."""

from __future__ import annotations

import time
from typing import Literal

import torch

__all__ = ["Precision", "choose"]

Precision = Literal["auto", "fp32", "bf16", "fp16"]
WORTH = 1.5  # a lower format must be this much faster to be worth its rounding


def choose(precision: Precision, device: torch.device) -> Literal["fp32", "bf16", "fp16"]:
    """Settle `auto` by timing a feed-forward product in fp32 and bf16 on the device.

    Any other precision is checked and returned.

    Raises `ValueError` for an unknown name or a format that the device lacks.
    """
    if precision not in ("auto", "fp32", "bf16", "fp16"):
        raise ValueError(f"precision is {precision!r}, wanted 'auto', 'fp32', 'bf16' or 'fp16'")
    if precision == "fp16" and device.type == "cpu":
        raise ValueError(
            "fp16 training needs a GPU: gradients underflow without its loss scaling; use "
            "bf16 or fp32 on a CPU"
        )
    if precision != "auto":
        return precision
    return (
        "bf16"
        if _seconds(torch.float32, device) > WORTH * _seconds(torch.bfloat16, device)
        else "fp32"
    )


def _seconds(dtype: torch.dtype, device: torch.device) -> float:
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
