"""Roofline: the fastest matrix product of this machine, as a bound on latency."""

from __future__ import annotations

import time
from functools import partial

import torch
from torch.nn import functional

from fewer._progress import track
from fewer.runtimes.timing import choose_clock

__all__ = ["gemm_peak"]

# Rows, inner and outer width: of small encoders, and one size that every library runs well.
SIZES = ((1024, 384, 1536), (1024, 1536, 384), (1024, 768, 3072), (1024, 1024, 1024))
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def gemm_peak(
    *, sizes: tuple[tuple[int, int, int], ...] = SIZES, runs: int = 20
) -> dict[str, float]:
    """Measure FLOP/s of the fastest matrix product by precision, with torch's number of threads.

    The best of `runs` per size, by `mm` and by `linear`: noise only makes a run slower.
    """
    best = dict.fromkeys(DTYPES, 0.0)
    with torch.inference_mode():
        for rows, inner, outer in track(sizes, "matrix products"):
            for name, dtype in DTYPES.items():
                left = torch.randn(rows, inner).to(dtype)
                right = torch.randn(outer, inner).to(dtype)
                for call in (
                    partial(functional.linear, left, right),
                    partial(torch.mm, left, right.t().contiguous()),
                ):
                    seconds = min(_time_call(call) for _ in range(runs + 1))
                    best[name] = max(best[name], 2.0 * rows * inner * outer / seconds)
    return best


def _time_call(call: partial[torch.Tensor]) -> float:
    read = time.process_time if choose_clock() == "cpu" else time.perf_counter
    start = read()
    call()
    return read() - start
