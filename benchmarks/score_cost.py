"""Time that summing received attention adds to attention, in the compiled kernel.

Random queries, keys and values of MiniLM's shape; with and without the score in turn.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fewer.kernels import AttentionCall, kernel
from fewer.kernels.cpu.library import best_isa
from fewer.measure.rows import append_row, provenance

HEADS, WIDTH = 12, 32
BATCHES = {"1 x 128": [128], "1 x 512": [512], "32 x 128": [128] * 32, "8 x 256": [256] * 8}


def measure(runs: int = 60) -> dict[str, Any]:
    """Time each batch in each precision; `score` is the median share it adds."""
    results: dict[str, Any] = {}
    for dtype in (torch.float32, torch.bfloat16):
        if best_isa(dtype) is None:
            continue
        for name, lengths in BATCHES.items():
            call = _draw_call(lengths, dtype)
            times: dict[bool, list[float]] = {False: [], True: []}
            for step in range(2 * runs):
                times[step % 2 == 1].append(_time_call(replace(call, needs_received=step % 2 == 1)))
            ratios = [b / a for a, b in zip(times[False], times[True], strict=True)]
            results[f"{str(dtype).partition('.')[2]}, {name}"] = {
                "attention_ms": statistics.median(times[False]),
                "score": statistics.median(ratios) - 1,
            }
    return results


def main(results: Path) -> None:
    """Measure on one thread and add the row."""
    torch.set_num_threads(1)
    row = {"kind": "score", **provenance(), "seed": 0, "found": measure()}
    append_row(row, results)
    for name, times in row["found"].items():
        print(f"{name}: attention {times['attention_ms']:.3f} ms, the score {times['score']:+.1%}")


def _draw_call(lengths: list[int], dtype: torch.dtype) -> AttentionCall:
    cu = torch.tensor([0, *lengths]).cumsum(0)
    position = torch.cat([torch.arange(n) for n in lengths])
    torch.manual_seed(0)
    fused = torch.randn(int(cu[-1]), 3, HEADS, WIDTH).to(dtype)
    q, k, v = fused.unbind(1)
    return AttentionCall(q=q, k=k, v=v, cu_q=cu, cu_k=cu, position_q=position, position_k=position)


def _time_call(call: AttentionCall) -> float:
    with torch.inference_mode():
        start = time.perf_counter()
        kernel("native")(call)
        return (time.perf_counter() - start) * 1e3


if __name__ == "__main__":
    main(Path("benchmarks/results/score.jsonl"))
