"""Times, memory, host synchronisations and kernels of a call, on a GPU or on the CPU."""

from __future__ import annotations

import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.autograd import DeviceType

from benchmarks.gpu.sizes import Sizes
from fewer.measure.interleaved import rotate, summarize_times
from fewer.training.device import synchronize

__all__ = [
    "KernelTime",
    "Times",
    "count_synchronisations",
    "describe_error",
    "interleave",
    "kernel_times",
    "peak_memory_mb",
    "time_enqueue",
    "time_pass",
]

Call = Callable[[int], object]  # of the number of the input set
_SYNCHRONISES = "called a synchronizing CUDA operation"


class Times(NamedTuple):
    """Milliseconds of one call: by the clock, and between two events on the GPU's stream."""

    wall: float
    gpu: float | None


class KernelTime(NamedTuple):
    """A kernel's time on the device in one pass, and how often it was launched."""

    name: str
    ms: float
    calls: float


def time_pass(call: Callable[[], object], device: torch.device) -> Times:
    """Time one call, with the device synchronised before and after."""
    synchronize(device)
    events = _record_events(device)
    start = time.perf_counter()
    if events:
        events[0].record()
    call()
    if events:
        events[1].record()
    synchronize(device)
    wall = (time.perf_counter() - start) * 1e3
    return Times(wall, float(events[0].elapsed_time(events[1])) if events else None)


def _record_events(device: torch.device) -> tuple[Any, ...]:
    if device.type != "cuda":
        return ()
    return tuple(torch.cuda.Event(enable_timing=True) for _ in range(2))


def time_enqueue(call: Callable[[], object], device: torch.device) -> float:
    """Time in milliseconds until a call returns, with its work maybe still queued."""
    synchronize(device)
    start = time.perf_counter()
    call()
    enqueued = (time.perf_counter() - start) * 1e3
    synchronize(device)
    return enqueued


def interleave(
    arms: Mapping[str, Call], device: torch.device, sizes: Sizes, *, against: tuple[str, ...]
) -> dict[str, dict[str, Any]]:
    """Time arms in turn on the same input sets, after a warm-up on each of them.

    `speedup` holds, for each arm named by `against`, the median of ratios of wall times within a
    round. An arm that fails in the warm-up has an `error`, and the others go on.
    """
    systems: dict[str, dict[str, Any]] = {}
    working: dict[str, Call] = {}
    for name, call in arms.items():
        try:
            for number in (*range(sizes.input_sets), 0):
                call(number)
            synchronize(device)
        except TimeoutError:  # of the whole case
            raise
        except Exception as error:
            systems[name] = describe_error(error)
            synchronize(device)  # raises again where the device is lost
        else:
            working[name] = call
            systems[name] = {}
    times: dict[str, list[Times]] = {name: [] for name in working}
    start = time.perf_counter()
    for number in range(sizes.rounds if working else 0):
        for name in rotate(list(working), number):
            times[name].append(time_pass(partial(working[name], number % sizes.input_sets), device))
        if number + 1 >= sizes.min_rounds and time.perf_counter() - start > sizes.seconds:
            break
    for name, pairs in times.items():
        gpu = [pair.gpu for pair in pairs if pair.gpu is not None]
        systems[name] |= {
            "wall_ms": summarize_times([pair.wall for pair in pairs]),
            "gpu_ms": summarize_times(gpu) if gpu else None,
            "speedup": {
                base: _median_ratio(times[base], pairs) for base in against if base in times
            },
            "memory_mb": peak_memory_mb(partial(working[name], 0), device),
        }
    return systems


def _median_ratio(base: list[Times], times: list[Times]) -> float:
    ratios = [slow.wall / fast.wall for slow, fast in zip(base, times, strict=True)]
    return summarize_times(ratios)["median"]


def peak_memory_mb(call: Callable[[], object], device: torch.device) -> float | None:
    """Run a call and return what it allocates at its peak; `None` on a CPU."""
    if device.type != "cuda":
        return None
    synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    synchronize(device)
    return float(torch.cuda.max_memory_allocated(device) - before) / 2**20


def count_synchronisations(call: Callable[[], object], device: torch.device) -> dict[str, int]:
    """Count how often a call waits for the GPU, by the line of Python that waits."""
    if device.type != "cuda":
        call()
        return {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = Counter(
        f"{Path(warning.filename).name}:{warning.lineno}"
        for warning in caught
        if _SYNCHRONISES in str(warning.message)
    )
    return dict(places.most_common())


def kernel_times(call: Call, device: torch.device, sizes: Sizes) -> list[KernelTime]:
    """Profile passes and return the time of each kernel per pass, longest first.

    On a CPU these are the times of operators.
    """
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities = [torch.profiler.ProfilerActivity.CUDA]
    passes = sizes.profiled_passes
    with torch.profiler.profile(activities=activities) as profile:
        for number in range(passes):
            call(number % sizes.input_sets)
        synchronize(device)
    times = []
    for event in profile.key_averages():
        if device.type != "cuda":
            microseconds = float(event.self_cpu_time_total)
        elif event.device_type == DeviceType.CUDA:
            microseconds = float(event.self_device_time_total)
        else:  # an operator, whose kernels are events of their own
            continue
        if microseconds:
            times.append(KernelTime(event.key, microseconds / 1e3 / passes, event.count / passes))
    return sorted(times, key=lambda kernel: kernel.ms, reverse=True)


def describe_error(error: BaseException) -> dict[str, str]:
    """Return what a row says of an exception."""
    lines = traceback.format_exception(error)
    return {
        "error": f"{type(error).__name__}: {str(error).strip()[:500]}",
        "traceback": "".join(lines)[-3000:],
    }
