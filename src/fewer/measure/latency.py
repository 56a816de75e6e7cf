"""Wall-clock of several systems, interleaved on the same batches: noise hits all alike."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from fewer._progress import track
from fewer.measure.evaluate import batches, systems
from fewer.measure.interleaved import draw, once, rotated, spread

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
    baseline: PreTrainedModel | None = None,
) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Time `runs` batches of each size, drawn from the data with its own lengths.

    Every system reads the same batches in turn, so `speedup` (against packed) is the median of
    ratios taken moments apart. Returns `{system: {"latency_ms": {size: {median, p5, p95, runs,
    speedup}}}}`. Raises `ValueError` for sizes or runs below 1, or more than the data holds.
    """
    if runs < 1 or not batch_sizes or min(batch_sizes) < 1:
        raise ValueError(f"runs={runs}, batch_sizes={list(batch_sizes)}: wanted 1 or more of each")
    if max(batch_sizes) > len(encoded):
        raise ValueError(f"a batch of {max(batch_sizes)} needs as many texts; got {len(encoded)}")
    compared = systems(model, baseline)
    rows: dict[str, Any] = {name: {"latency_ms": {}} for name in compared}
    for size in batch_sizes:
        drawn = draw(len(encoded), size, runs + WARM_UP, seed)
        taken: dict[str, list[float]] = {name: [] for name in compared}
        walk = batches(encoded, tokenizer, drawn, size)
        for turn in track(range(runs + WARM_UP), f"batch {size}"):
            inputs = {name: value.to(model.device) for name, value in next(walk)[1].items()}
            for name in rotated(list(compared), turn):
                milliseconds = once(partial(compared[name], **inputs), model.device)
                if turn >= WARM_UP:
                    taken[name].append(milliseconds)
        for name, times in taken.items():
            rows[name]["latency_ms"][str(size)] = _summary(times, taken["packed"])
    return rows


def _summary(times: list[float], packed: list[float]) -> dict[str, float]:
    ratios = torch.tensor(packed, dtype=torch.float64) / torch.tensor(times, dtype=torch.float64)
    return {**spread(times), "speedup": float(ratios.median())}
