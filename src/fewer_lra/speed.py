"""How many examples a second a model reads, in training and in inference, and the memory it takes.

All attentions get the same rows: the longest of the training rows, a batch of them.
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
from fewer_lra.model import LRAModel, LRAShape
from fewer_lra.recipes import Plan
from fewer_lra.tasks.arena import LRATask

__all__ = ["peak_memory_mb", "speed", "training_step"]

_WARM_UP = 2  # steps that are not timed


def speed(model: LRAModel, task: LRATask, plan: Plan, *, runs: int = 12) -> dict[str, Any]:
    """Time `runs` steps of training, weights and all, and as many of inference.

    Returns `batch_size`, `length`, and by `train` and `inference` the `examples_per_s` (median) and
    `examples_per_cpu_s`: by the processor's time, which other work on the machine disturbs less (of
    use with one thread, no GPU). The model's weights are other ones afterwards.
    """
    found = _longest(task, plan.training.batch_size)
    size, length = found["input_ids"].shape
    device = next(model.parameters()).device
    found = {name: values.to(device) for name, values in found.items()}
    step = training_step(model, found, plan.training.precision)
    model.train()
    told = {"batch_size": size, "length": length, "train": _timed(step, size, runs, device)}
    model.eval()

    def read() -> None:
        with torch.inference_mode():
            model(**found)

    return {**told, "inference": _timed(read, size, runs, device)}


def training_step(model: LRAModel, found: dict[str, Tensor], precision: str) -> Callable[[], None]:
    """Return one whole step on a batch: forward, backward, and the optimizer's."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    device = found["input_ids"].device.type

    def step() -> None:
        lower = torch.autocast(device, torch.bfloat16) if precision == "bf16" else nullcontext()
        with lower:
            loss = model(**found)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def peak_memory_mb(task: LRATask, shape: LRAShape, plan: Plan) -> float:
    """Measure the most memory that training takes, in 10^6 bytes: weights, gradients, all.

    On a GPU what its allocator gave out at most. On a CPU the growth of a process of its own, which
    holds no data but one batch.
    """
    batch_size = plan.training.batch_size
    if training_device().type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        model = LRAModel(shape, plan.attention, plan.options).to("cuda")
        found = {name: one.to("cuda") for name, one in _longest(task, batch_size).items()}
        step = training_step(model, found, plan.training.precision)
        for _ in range(_WARM_UP):
            step()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    content = {
        "shape": asdict(shape),
        "attention": plan.attention,
        "options": plan.options,
        "precision": plan.training.precision,
        "lengths": _longest(task, batch_size)["lengths"].tolist(),
        "threads": torch.get_num_threads(),
    }
    done = subprocess.run(
        [sys.executable, "-m", "fewer_lra.memory"],
        input=json.dumps(content),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"measuring memory failed: {done.stderr.strip()[-2000:]}")
    return float(done.stdout)


def _longest(task: LRATask, size: int) -> dict[str, Tensor]:
    lengths = task.train.lengths
    return batch(task.train, np.argsort(-lengths.astype(np.int64), kind="stable")[:size])


def _timed(
    call: Callable[[], None], size: int, runs: int, device: torch.device
) -> dict[str, float]:
    walls, own = [], []
    for _ in range(_WARM_UP + runs):
        start, cpu = time.perf_counter(), time.process_time()
        call()
        synchronize(device)
        walls.append(time.perf_counter() - start)
        own.append(time.process_time() - cpu)
    wall, processor = (float(np.median(times[_WARM_UP:])) for times in (walls, own))
    return {"examples_per_s": size / wall, "examples_per_cpu_s": size / processor, "steps": runs}
