"""Latency of several systems, interleaved on the same batches, so that noise affects all alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from fewer._progress import track
from fewer.measure.evaluate import batches, build_systems
from fewer.measure.interleaved import draw_batches, rotate, summarize_times, time_call

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["latency", "time_systems"]

WARM_UP = 2


def latency(
    model: PreTrainedModel,
    encoded: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_sizes: Sequence[int] = (1, 8, 32),
    runs: int = 20,
    seed: int = 0,
    baseline: PreTrainedModel | None = None,
) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Time padded, packed and the method, as `time_systems` does."""
    systems = build_systems(model, baseline)
    return time_systems(systems, encoded, tokenizer, batch_sizes=batch_sizes, runs=runs, seed=seed)


def time_systems(
    models: Mapping[str, PreTrainedModel],
    encoded: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_sizes: Sequence[int] = (1, 8, 32),
    runs: int = 20,
    seed: int = 0,
) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Time `runs` batches of each size, drawn from the data with its own lengths.

    Systems take turns on the same batches, so `speedup` (over the one named packed) is the median
    of ratios of consecutive times. Returns `{system: {"latency_ms": {size: {median, p5, p95, runs,
    speedup}}}}`. Raises `ValueError` for sizes or runs below 1, or sizes above the rows.
    """
    if runs < 1 or not batch_sizes or min(batch_sizes) < 1:
        raise ValueError(
            "runs and batch_sizes must be 1 or more; got "
            f"runs={runs}, batch_sizes={list(batch_sizes)}."
        )
    if max(batch_sizes) > len(encoded):
        raise ValueError(
            f"batch_sizes must be at most the number of texts, {len(encoded)}; got "
            f"{max(batch_sizes)}."
        )
    device = next(iter(models.values())).device
    rows: dict[str, Any] = {name: {"latency_ms": {}} for name in models}
    for size in batch_sizes:
        order = draw_batches(len(encoded), size, runs + WARM_UP, seed)
        times_ms: dict[str, list[float]] = {name: [] for name in models}
        size_batches = batches(encoded, tokenizer, order, size)
        for round_number in track(range(runs + WARM_UP), f"batch {size}"):
            inputs = {name: value.to(device) for name, value in next(size_batches)[1].items()}
            for name in rotate(list(models), round_number):
                milliseconds = time_call(partial(models[name], **inputs), device)
                if round_number >= WARM_UP:
                    times_ms[name].append(milliseconds)
        for name, times in times_ms.items():
            rows[name]["latency_ms"][str(size)] = _summarise(times, times_ms["packed"])
    return rows


def _summarise(times: list[float], packed: list[float]) -> dict[str, float]:
    ratios = torch.tensor(packed, dtype=torch.float64) / torch.tensor(times, dtype=torch.float64)
    return {**summarize_times(times), "speedup": float(ratios.median())}
