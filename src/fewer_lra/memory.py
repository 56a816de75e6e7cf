"""`python -m fewer_lra.memory`: train two steps and print the peak growth of this process.

The model and the batch come as JSON on standard input. This is a separate process, because a
process keeps memory that it has freed.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

import torch

from fewer.measure.memory import peak_growth_mb
from fewer_lra.model import LRAModel, LRAModelSpec
from fewer_lra.speed import training_step

__all__ = ["training_mb"]


def training_mb(content: dict[str, Any]) -> float:
    """Train and return the growth in 10^6 bytes."""
    torch.set_num_threads(content["threads"])
    spec = LRAModelSpec(**content["shape"])
    tiny = replace(spec, layers=1, heads=1, hidden=2, qkv=2, ffn=2, max_length=2)
    _train(tiny, "softmax", {}, [2], content["precision"])  # loads lazily imported modules
    growth = peak_growth_mb(
        lambda: _train(
            spec,
            content["attention"],
            content["options"],
            content["lengths"],
            content["precision"],
        )
    )
    return growth * (1 << 20) / 1e6


def _train(
    spec: LRAModelSpec, attention: str, options: dict[str, Any], lengths: list[int], precision: str
) -> None:
    inputs = {
        "input_ids": torch.ones((len(lengths), max(lengths)), dtype=torch.int64),
        "lengths": torch.tensor(lengths),
        "labels": torch.zeros(len(lengths), dtype=torch.int64),
    }
    if spec.pair:
        inputs |= {"second_ids": inputs["input_ids"], "second_lengths": inputs["lengths"]}
    step = training_step(LRAModel(spec, attention, options), inputs, precision)
    for _ in range(2):  # the first creates the state of the optimizer
        step()


if __name__ == "__main__":
    print(training_mb(json.load(sys.stdin)))
