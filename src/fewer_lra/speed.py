"""Examples per second in training and in inference, and peak memory.

All attentions get the same batch: the longest of the training rows.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewer.training.device import synchronize, training_device
from fewer_lra.batches import batch
from fewer_lra.model import LRAModel, LRAModelSpec
from fewer_lra.recipes import LRAPlan
from fewer_lra.tasks.task import LRATask

__all__ = ["peak_memory_mb", "speed", "training_step"]

_WARM_UP = 2  # steps that are not timed


def speed(model: LRAModel, task: LRATask, plan: LRAPlan, *, runs: int = 12) -> dict[str, Any]:
    """Time `runs` steps of training, optimizer included, and as many of inference.

    Returns `batch_size`, `length`, and by `train` and `inference` the `examples_per_s` (median) and
    `examples_per_cpu_s`: by processor time, which other work on the machine disturbs less (use it
    with one thread and no GPU). The model's weights change.
    """
    inputs = _build_longest_batch(task, plan.training.batch_size)
    size, length = inputs["input_ids"].shape
    device = next(model.parameters()).device
    inputs = {name: values.to(device) for name, values in inputs.items()}
    step = training_step(model, inputs, plan.training.precision)
    model.train()
    report = {
        "batch_size": size,
        "length": length,
        "train": _measure_speed(step, size, runs, device),
    }
    model.eval()

    def infer() -> None:
        with torch.inference_mode():
            model(**inputs)

    return {**report, "inference": _measure_speed(infer, size, runs, device)}


def training_step(model: LRAModel, inputs: dict[str, Tensor], precision: str) -> Callable[[], None]:
    """Return a training step on a batch: forward, backward, optimizer."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    device = inputs["input_ids"].device.type

    def step() -> None:
        precision_context = (
            torch.autocast(device, torch.bfloat16) if precision == "bf16" else nullcontext()
        )
        with precision_context:
            loss = model(**inputs)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def peak_memory_mb(task: LRATask, spec: LRAModelSpec, plan: LRAPlan) -> float:
    """Measure the peak memory of training in 10^6 bytes, weights and optimizer included.

    On a GPU the peak of its allocator. On a CPU the growth of a separate process that holds one
    batch.
    """
    batch_size = plan.training.batch_size
    if training_device().type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        model = LRAModel(spec, plan.attention, plan.options).to("cuda")
        inputs = {
            name: values.to("cuda")
            for name, values in _build_longest_batch(task, batch_size).items()
        }
        step = training_step(model, inputs, plan.training.precision)
        for _ in range(_WARM_UP):
            step()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    content = {
        "shape": asdict(spec),
        "attention": plan.attention,
        "options": plan.options,
        "precision": plan.training.precision,
        "lengths": _build_longest_batch(task, batch_size)["lengths"].tolist(),
        "threads": torch.get_num_threads(),
    }
    process = subprocess.run(
        [sys.executable, "-m", "fewer_lra.memory"],
        input=json.dumps(content),
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        raise RuntimeError(f"measuring memory failed: {process.stderr.strip()[-2000:]}")
    return float(process.stdout)


def _build_longest_batch(task: LRATask, size: int) -> dict[str, Tensor]:
    lengths = task.train.lengths
    return batch(task.train, np.argsort(-lengths.astype(np.int64), kind="stable")[:size])


def _measure_speed(
    call: Callable[[], None], size: int, runs: int, device: torch.device
) -> dict[str, float]:
    wall_times, cpu_times = [], []
    for _ in range(_WARM_UP + runs):
        start, cpu = time.perf_counter(), time.process_time()
        call()
        synchronize(device)
        wall_times.append(time.perf_counter() - start)
        cpu_times.append(time.process_time() - cpu)
    wall, processor = (float(np.median(times[_WARM_UP:])) for times in (wall_times, cpu_times))
    return {"examples_per_s": size / wall, "examples_per_cpu_s": size / processor, "steps": runs}
