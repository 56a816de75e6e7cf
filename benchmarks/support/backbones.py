"""The table of encoders with rotary positions: padded, packed and optimized."""

from __future__ import annotations

from typing import Any

__all__ = ["backbones_table"]


def backbones_table(row: dict[str, Any], path: str) -> str:
    """Write the time of each system, and its speedup over the first, for each model of a row."""
    lines = ["| model | system | processor time | speedup |", "| --- | --- | ---: | ---: |"]
    runs = 0
    for model, measured in row["models"].items():
        for name, times in measured["cpu_ms"].items():
            runs = times["runs"]
            speedups = measured["speedup"]
            speedup = f"{speedups[name]['median']:.1f}x" if name in speedups else "1x"
            lines.append(f"| {model} | {name} | {times['median']:,.0f} ms | {speedup} |")
    lengths = row["lengths"]
    tokens = f"{sum(lengths):,} tokens, {len(lengths) * max(lengths):,} with padding"
    where = f"one thread of {row['processor']}; row in `{path}`"
    table = "\n".join(lines)
    return f"{table}\n\n{tokens}. Medians of {runs} rounds, in turn, {where}."
