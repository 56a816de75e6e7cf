"""Passes over one drawn batch, timed in turn by the time of the process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fewer.measure.interleaved import rotate

__all__ = ["Run", "draw_batch", "runner", "time_in_turn"]

Run = Callable[[], Tensor]


def draw_batch(lengths: list[int], vocabulary: int) -> dict[str, Tensor]:
    """Draw texts of these lengths, padded on the right by 0."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.randint(5, vocabulary, mask.shape, generator=generator)
    return {"input_ids": ids.masked_fill(~mask, 0), "attention_mask": mask.long()}


def runner(model: Any, batch: dict[str, Tensor]) -> Run:
    """Return a pass that gives the first output of the model."""

    def run() -> Tensor:
        with torch.inference_mode():
            output: Tensor = model(**batch)[0]
            return output

    return run


def time_in_turn(
    systems: dict[str, Run], rounds: int
) -> tuple[dict[str, list[float]], dict[str, Tensor]]:
    """Run all systems in turn, each round from another one on; the first round is not timed."""
    outputs = {name: run() for name, run in systems.items()}
    times: dict[str, list[float]] = {name: [] for name in systems}
    for step in range(rounds):
        for name in rotate(list(systems), step):
            start = time.process_time()
            systems[name]()
            times[name].append((time.process_time() - start) * 1e3)
    return times, outputs
