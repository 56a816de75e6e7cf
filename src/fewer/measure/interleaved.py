"""Interleaved timing of several systems on the same batches."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from fewer.training.device import synchronize

__all__ = ["draw_batches", "rotate", "summarize_times", "time_call"]


def draw_batches(texts: int, size: int, count: int, seed: int) -> list[int]:
    """Draw the rows of `count` batches, one batch after another; no row twice in a batch.

    Raises `ValueError` for a size or count below 1, or a size above the number of texts.
    """
    if count < 1 or size < 1:
        raise ValueError(f"count and size must be 1 or more; got {count} batches of {size} texts.")
    if size > texts:
        raise ValueError(f"size must be at most the number of texts, {texts}; got {size}.")
    generator = torch.Generator().manual_seed(seed)
    batches = [torch.randperm(texts, generator=generator)[:size] for _ in range(count)]
    return [int(row) for row in torch.cat(batches)]


def rotate(names: list[str], count: int) -> list[str]:
    """Move the first `count` names to the end, so that each round begins with another system."""
    return names[count % len(names) :] + names[: count % len(names)]


def time_call(call: Callable[[], object], device: torch.device) -> float:
    """Time one call in milliseconds, with the device synchronised before and after."""
    with torch.inference_mode():
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        return (time.perf_counter() - start) * 1e3


def summarize_times(times: list[float]) -> dict[str, float]:
    """Return the median, the 5th and 95th percentile and the number of these times."""
    values = torch.tensor(times, dtype=torch.float64)
    low, median, high = (float(values.quantile(q)) for q in (0.05, 0.5, 0.95))
    return {"median": median, "p5": low, "p95": high, "runs": len(times)}
