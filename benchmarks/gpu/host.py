"""How much of a pass is the host's: launches, waits for the GPU, and what graphs would save."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch

from benchmarks.gpu.arms import build_models, build_plain, calibrate_pruning, make_call
from benchmarks.gpu.cases import Case, Setting
from benchmarks.gpu.inputs import MIXES, Mix, describe_case, draw_batches
from benchmarks.gpu.sizes import DTYPES, Shape
from benchmarks.gpu.timing import (
    count_synchronisations,
    interleave,
    kernel_times,
    time_enqueue,
    time_pass,
)

__all__ = ["cases"]


def cases(setting: Setting) -> list[Case]:
    """List the passes that are taken apart, and those that are compiled."""
    sizes = setting.sizes
    found = []
    usual, large, single = sizes.batches
    for name, size, rank in (
        ("bert-base", usual, 1),
        ("bert-base", single, 1),
        ("modernbert", usual, 1),
        ("minilm", usual, 2),
        ("bert-base", large, 2),
    ):
        shape, mix = sizes.shape(name), MIXES["imdb"]
        found.append(_case(setting, "host", measure, shape, mix, size, rank, 6.0))
    for rank, size in enumerate(sizes.compiled, 2):
        shape, mix = sizes.shape("bert-base"), MIXES["equal-128"]
        found.append(_case(setting, "compiled", compile_models, shape, mix, size, rank, 45.0))
    return found


def _case(
    setting: Setting,
    kind: str,
    function: Callable[..., dict[str, Any]],
    shape: Shape,
    mix: Mix,
    size: int,
    rank: int,
    seconds: float,
) -> Case:
    part = "" if kind == "host" else f"{kind}/"
    name = f"host/{part}{shape.name}/{mix.name}/{size}/bf16"
    return Case(name, rank, seconds, partial(function, setting, shape, mix, size))


def measure(setting: Setting, shape: Shape, mix: Mix, size: int) -> dict[str, Any]:
    """Compare the time of a pass with that of its kernels, and count the host's waits."""
    device, sizes = setting.device, setting.sizes
    models = build_models(shape, "bf16", device)
    batches = draw_batches(mix, size, models.vocabulary, sizes, device)
    calibrate_pruning(models, batches)
    systems = {}
    for name in ("padded", "packed", "optimized", "half"):
        call = make_call(getattr(models, name), batches)
        for number in (*range(sizes.input_sets), 0):
            call(number)
        numbers = [number % sizes.input_sets for number in range(sizes.rounds)]
        walls = [time_pass(partial(call, number), device).wall for number in numbers]
        enqueued = [time_enqueue(partial(call, number), device) for number in numbers]
        kernels = kernel_times(call, device, sizes)
        places = count_synchronisations(partial(call, 0), device)
        busy = sum(kernel.ms for kernel in kernels)
        systems[name] = {
            "wall_ms": median(walls),
            "busy_ms": busy,  # sum over kernels; of operators on a CPU
            "enqueue_ms": median(enqueued),
            "idle_share": max(0.0, 1 - busy / median(walls)),
            "launches": sum(kernel.calls for kernel in kernels),
            "synchronisations": sum(places.values()),
            "places": dict(list(places.items())[:12]),
        }
    return {
        **describe_case(shape.name, mix, "bf16", batches),
        "systems": systems,
    }


def compile_models(setting: Setting, shape: Shape, mix: Mix, size: int) -> dict[str, Any]:
    """Time the padded model compiled by PyTorch with CUDA graphs, and `fewer.optimize`."""
    device, sizes = setting.device, setting.sizes
    models = build_models(shape, "bf16", device)
    batches = draw_batches(mix, size, models.vocabulary, sizes, device)
    options: dict[str, Any] = {"backend": sizes.compile_backend}
    if sizes.compile_backend == "inductor":
        options["mode"] = "reduce-overhead"
    plain = build_plain(shape, device).to(DTYPES["bf16"])
    compiled = make_call(torch.compile(plain, **options), batches)
    calls = {
        "padded": make_call(models.padded, batches),
        "packed": make_call(models.packed, batches),
        "optimized": make_call(models.optimized, batches),
        "padded-compiled": lambda number: compiled(number).clone(),  # the graph owns its output
    }
    systems = interleave(calls, device, sizes, against=("padded", "packed"))
    return {
        **describe_case(shape.name, mix, "bf16", batches),
        "systems": systems,
    }
