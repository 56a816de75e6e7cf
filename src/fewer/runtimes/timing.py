"""Time of batches in each way of feeding: wall time and process time, systems interleaved."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewer._progress import track
from fewer.measure.interleaved import rotate, summarize_times, time_call
from fewer.runtimes.adapters import Runner
from fewer.runtimes.feeding import Part

__all__ = [
    "Batch",
    "Times",
    "call_parts",
    "choose_clock",
    "compute_ratio",
    "find_feeding",
    "measure_times",
    "run_parts",
    "summarise",
    "time_parts",
]

CPU = torch.device("cpu")
SETTLE_S = 0.02  # threads of a runtime spin for some milliseconds after a call


@dataclass(frozen=True)
class Batch:
    """A padded batch, divided in each way of feeding, with its real tokens and dense FLOPs."""

    parts: Mapping[str, Sequence[Part]]  # by feeding; those that differ for its size
    texts: int
    tokens: int  # without padding
    flops: float  # of the dense model, without padding


class Times(NamedTuple):
    """Milliseconds of each run, of batch run % pool."""

    wall: list[float]
    cpu: list[float]  # of the process, all its threads


def choose_clock() -> str:
    """Return which time counts: "cpu" on one thread, else "wall".

    Other processes do not change the process time of one thread; of several it includes waiting.
    """
    return "cpu" if torch.get_num_threads() == 1 else "wall"


def run_parts(runner: Runner, parts: Sequence[Part]) -> Tensor:
    """Return the logits of a batch in fp32, in the order of its rows."""
    with torch.inference_mode():
        logits = torch.cat([runner.call(part.inputs).float().clone() for part in parts])
    return logits[torch.cat([part.rows for part in parts]).argsort()]


def call_parts(runner: Runner, parts: Sequence[Part]) -> None:
    """Run the parts of a batch one after another."""
    for part in parts:
        runner.call(part.inputs)


def time_parts(runner: Runner, parts: Sequence[Part]) -> float:
    """Time a batch in milliseconds of wall time."""
    return time_call(partial(call_parts, runner, parts), CPU)


def measure_times(
    runners: Mapping[str, Runner], pool: Sequence[Batch], runs: int, title: str
) -> dict[str, dict[str, Times]]:
    """Measure milliseconds in full rounds of the pool, all systems in all feedings in turn."""
    feedings = list(pool[0].parts)
    times = {name: {feeding: Times([], []) for feeding in feedings} for name in runners}
    total = -(-runs // len(pool)) * len(pool)
    for run in track(range(total), title):
        for name in rotate(list(runners), run):
            for feeding in rotate(feedings, run):
                if torch.get_num_threads() > 1:
                    time.sleep(SETTLE_S)
                parts = pool[run % len(pool)].parts[feeding]
                start = time.process_time()
                times[name][feeding].wall.append(time_parts(runners[name], parts))
                times[name][feeding].cpu.append((time.process_time() - start) * 1e3)
    return times


def find_feeding(times: Mapping[str, Times], clock: str) -> str:
    """Return the feeding of the least median time."""
    return min(times, key=lambda feeding: _median(getattr(times[feeding], clock)))


def summarise(
    times: Mapping[str, Times],
    fastest: str,
    clock: str,
    pool: Sequence[Batch],
    peak: float | None,
) -> dict[str, Any]:
    """Return the spread of times, and the throughput at the median time of each batch."""
    by_batch = torch.tensor(getattr(times[fastest], clock), dtype=torch.float64)
    seconds = float(by_batch.view(-1, len(pool)).quantile(0.5, dim=0).sum()) / 1e3
    rate = sum(batch.flops for batch in pool) / seconds
    return {
        "feeding": fastest,
        **summarize_times(times[fastest].wall),
        "cpu": summarize_times(times[fastest].cpu),
        "feedings": {
            feeding: {"wall": _median(each.wall), "cpu": _median(each.cpu)}
            for feeding, each in times.items()
        },
        "tokens_per_s": sum(batch.tokens for batch in pool) / seconds,
        **({} if peak is None else {"share": rate / peak}),
    }


def _median(values: Sequence[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).quantile(0.5))


def compute_ratio(numerator: Times, denominator: Times, clock: str) -> float:
    """Return the median over runs of one time over the other."""
    pairs = zip(getattr(numerator, clock), getattr(denominator, clock), strict=True)
    return _median([over / under for over, under in pairs])
