"""Taking turns: what every measurement of several systems on the same batches shares."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from fewer.training.device import synchronize

__all__ = ["draw", "once", "rotated", "spread"]


def draw(texts: int, size: int, count: int, seed: int) -> list[int]:
    """Draw the rows of `count` batches, one batch after another; no row twice in a batch.

    Raises `ValueError` for a size or count below 1, or a size beyond what there is.
    """
    if count < 1 or size < 1:
        raise ValueError(f"{count} batches of {size} texts: wanted 1 or more of each")
    if size > texts:
        raise ValueError(f"a batch of {size} needs as many texts; got {texts}")
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randperm(texts, generator=generator)[:size] for _ in range(count)]
    return [int(row) for row in torch.cat(drawn)]


def rotated(names: list[str], turn: int) -> list[str]:
    """Let another system begin each turn."""
    return names[turn % len(names) :] + names[: turn % len(names)]


def once(call: Callable[[], object], device: torch.device) -> float:
    """Return the milliseconds of one call, the device synchronised before and after."""
    with torch.inference_mode():
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        return (time.perf_counter() - start) * 1e3


def spread(times: list[float]) -> dict[str, float]:
    """Say the median of some times, their 5th and 95th percentile, and how many they are."""
    taken = torch.tensor(times, dtype=torch.float64)
    low, median, high = (float(taken.quantile(q)) for q in (0.05, 0.5, 0.95))
    return {"median": median, "p5": low, "p95": high, "runs": len(times)}
