"""Wall-clock of several systems, interleaved on the same batches: noise hits all alike."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from fewer.measure.evaluate import batches, systems

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["latency"]

WARM_UP = 2


def latency(
    model: PreTrainedModel,
    encoded: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_sizes: Sequence[int] = (1, 8, 32),
    runs: int = 20,
    seed: int = 0,
) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Time `runs` batches of each size, drawn from the data with its own lengths.

    Every system reads the same batches in turn, so `speedup` (against packed) is the median of
    ratios taken moments apart. Returns `{system: {"latency_ms": {size: {median, p5, p95, runs,
    speedup}}}}`. Raises `ValueError` for sizes or runs below 1, or more than the data holds.
    """
    from rich.progress import track

    if runs < 1 or not batch_sizes or min(batch_sizes) < 1:
        raise ValueError(f"runs={runs}, batch_sizes={list(batch_sizes)}: wanted 1 or more of each")
    if max(batch_sizes) > len(encoded):
        raise ValueError(f"a batch of {max(batch_sizes)} needs as many texts; got {len(encoded)}")
    compared = systems(model)
    rows: dict[str, Any] = {name: {"latency_ms": {}} for name in compared}
    for size in batch_sizes:
        drawn = _draw(len(encoded), size, runs + WARM_UP, seed)
        taken: dict[str, list[float]] = {name: [] for name in compared}
        walk = batches(encoded, tokenizer, drawn, size)
        for turn in track(range(runs + WARM_UP), description=f"batch {size}", transient=True):
            inputs = {name: value.to(model.device) for name, value in next(walk)[1].items()}
            for name in _rotated(list(compared), turn):
                milliseconds = _once(compared[name], inputs)
                if turn >= WARM_UP:
                    taken[name].append(milliseconds)
        for name, times in taken.items():
            rows[name]["latency_ms"][str(size)] = _summary(times, taken["packed"])
    return rows


def _draw(texts: int, size: int, count: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randperm(texts, generator=generator)[:size] for _ in range(count)]
    return [int(row) for row in torch.cat(drawn)]


def _rotated(names: list[str], turn: int) -> list[str]:
    return names[turn % len(names) :] + names[: turn % len(names)]


def _once(model: PreTrainedModel, inputs: dict[str, Any]) -> float:
    with torch.inference_mode():
        _wait(model.device)
        start = time.perf_counter()
        model(**inputs)
        _wait(model.device)
        return (time.perf_counter() - start) * 1e3


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()


def _summary(times: list[float], packed: list[float]) -> dict[str, float]:
    spread = torch.tensor(times, dtype=torch.float64)
    ratios = torch.tensor(packed, dtype=torch.float64) / spread
    low, median, high = (float(spread.quantile(q)) for q in (0.05, 0.5, 0.95))
    return {
        "median": median,
        "p5": low,
        "p95": high,
        "runs": len(times),
        "speedup": float(ratios.median()),
    }
