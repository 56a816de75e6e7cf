"""DeBERTa on texts of mixed lengths: how these are drawn, and how the times are shown."""

from __future__ import annotations

import math
from typing import Any

import torch

from fewer.measure.interleaved import summarize_times

__all__ = ["deberta_table", "log_uniform_lengths", "ratios"]


def log_uniform_lengths(count: int, shortest: int, longest: int, seed: int) -> list[int]:
    """Draw lengths whose logarithm is uniform; the first has the longest."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(count - 1, generator=generator, dtype=torch.float64)
    low, high = math.log(shortest), math.log(longest + 1)
    return [longest, *(low + draws * (high - low)).exp().int().clamp(shortest, longest).tolist()]


def ratios(times: dict[str, list[float]], baseline: str) -> dict[str, dict[str, float]]:
    """Summarize the time of `baseline` over that of every other system, round by round."""
    return {
        name: summarize_times([b / a for a, b in zip(values, times[baseline], strict=True)])
        for name, values in times.items()
        if name != baseline
    }


def deberta_table(row: dict[str, Any], path: str) -> str:
    """Write the time of each system, and its speedup over the first, from one row."""
    lines = ["| system | processor time | speedup |", "| --- | ---: | ---: |"]
    for name, times in row["cpu_ms"].items():
        speedup = f"{row['speedup'][name]['median']:.1f}x" if name in row["speedup"] else "1x"
        lines.append(f"| {name} | {times['median']:,.0f} ms | {speedup} |")
    runs = next(iter(row["cpu_ms"].values()))["runs"]
    lengths = row["lengths"]
    tokens = f"{sum(lengths):,} tokens, {len(lengths) * max(lengths):,} with padding"
    where = f"one thread of {row['processor']}; row in `{path}`"
    table = "\n".join(lines)
    return f"{table}\n\n{tokens}. Medians of {runs} rounds, in turn, {where}."
