"""Latency of several systems, interleaved on the same batches, so that noise affects all alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from statistics import median_high
from typing import TYPE_CHECKING, Any

import torch

from fewer._progress import track
from fewer.core.candidates import Candidates, among_candidates
from fewer.measure.evaluate import batches, build_systems
from fewer.measure.interleaved import draw_batches, rotate, summarize_times, time_call

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from fewer.inference.candidate_lists import CandidateLists

__all__ = ["BATCH_SIZES", "default_sizes", "largest_batch", "latency", "time_systems"]

BATCH_SIZES = (1, 8, 32)
WARM_UP = 2


def default_sizes(texts: int, lists: CandidateLists | None) -> list[int]:
    """Return the sizes that the data can fill; of ranking lists also that of the median list."""
    largest = largest_batch(texts, lists)
    sizes = {size for size in BATCH_SIZES if size <= largest}
    return sorted(sizes if lists is None else sizes | {median_high(map(len, lists.rows))})


def largest_batch(texts: int, lists: CandidateLists | None) -> int:
    """Return the size of the largest batch: all texts, or the documents of a query."""
    return texts if lists is None else max(map(len, lists.rows))


def latency(
    model: PreTrainedModel,
    encoded: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    runs: int = 20,
    seed: int = 0,
    baseline: PreTrainedModel | None = None,
    lists: CandidateLists | None = None,
) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Time padded, packed and the method, as `time_systems` does."""
    systems = build_systems(model, baseline)
    return time_systems(
        systems,
        encoded,
        tokenizer,
        batch_sizes=batch_sizes,
        runs=runs,
        seed=seed,
        lists=lists,
    )


def time_systems(
    models: Mapping[str, PreTrainedModel],
    encoded: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    runs: int = 20,
    seed: int = 0,
    lists: CandidateLists | None = None,
) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Time `runs` batches of each size, drawn from the data with its own lengths.

    With `lists` a batch holds the first documents of one query, drawn among those that have as
    many, and their best `top_k` are wanted. Systems take turns on the same batches, so `speedup`
    (over the one named packed) is the median of ratios of consecutive times. Returns `{system:
    {"latency_ms": {size: {median, p5, p95, runs, speedup}}}}`. Raises `ValueError` for sizes or
    runs below 1, or sizes above the rows.
    """
    if runs < 1 or not batch_sizes or min(batch_sizes) < 1:
        raise ValueError(
            "runs and batch_sizes must be 1 or more; got "
            f"runs={runs}, batch_sizes={list(batch_sizes)}."
        )
    largest = largest_batch(len(encoded), lists)
    if max(batch_sizes) > largest:
        items = "texts" if lists is None else "documents of a query"
        raise ValueError(
            f"batch_sizes must be at most the number of {items}, {largest}; got {max(batch_sizes)}."
        )
    device = next(iter(models.values())).device
    rows: dict[str, Any] = {name: {"latency_ms": {}} for name in models}
    for size in batch_sizes:
        order = _draw_rows(len(encoded), size, runs + WARM_UP, seed, lists)
        times_ms: dict[str, list[float]] = {name: [] for name in models}
        size_batches = batches(encoded, tokenizer, order, size)
        for round_number in track(range(runs + WARM_UP), f"batch {size}"):
            inputs = {name: value.to(device) for name, value in next(size_batches)[1].items()}
            for name in rotate(list(models), round_number):
                best = None if lists is None else Candidates(lists.top_k)
                with nullcontext() if best is None else among_candidates(best):
                    milliseconds = time_call(partial(models[name], **inputs), device)
                if round_number >= WARM_UP:
                    times_ms[name].append(milliseconds)
        for name, times in times_ms.items():
            rows[name]["latency_ms"][str(size)] = _summarise(times, times_ms["packed"])
    return rows


def _draw_rows(
    texts: int, size: int, count: int, seed: int, lists: CandidateLists | None
) -> list[int]:
    """Draw the rows of `count` batches, one batch after another."""
    if lists is None:
        return draw_batches(texts, size, count, seed)
    long_enough = [rows[:size] for rows in lists.rows if len(rows) >= size]
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randint(len(long_enough), (count,), generator=generator).tolist()
    return [row for number in numbers for row in long_enough[number]]


def _summarise(times: list[float], packed: list[float]) -> dict[str, float]:
    ratios = torch.tensor(packed, dtype=torch.float64) / torch.tensor(times, dtype=torch.float64)
    return {**summarize_times(times), "speedup": float(ratios.median())}
