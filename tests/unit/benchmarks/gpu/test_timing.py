"""Times of a GPU, by stand-ins for torch.cuda that have the signatures of the real functions."""

from __future__ import annotations

import warnings
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import pytest
import torch
from torch.autograd import DeviceType

from benchmarks.gpu import timing
from benchmarks.gpu.sizes import DRY

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand in for a GPU and log what is called on it."""
    log: list[str] = []
    monkeypatch.setattr(timing, "synchronize", lambda device: log.append("wait"))

    real = torch.cuda.Event

    def event(**options: Any) -> Any:
        instance = create_autospec(real, instance=True)
        instance.record.side_effect = lambda: log.append("event")
        instance.elapsed_time.return_value = 1.5
        return instance

    monkeypatch.setattr(torch.cuda, "Event", create_autospec(real, side_effect=event))
    return log


def test_events_enclose_the_call_and_the_clock_encloses_the_waits(cuda: list[str]) -> None:
    times = timing.time_pass(lambda: cuda.append("call"), CUDA)
    assert cuda == ["wait", "event", "call", "event", "wait"]
    assert times.gpu == 1.5
    assert 0 < times.wall < 1e3
    assert timing.time_pass(lambda: None, CPU).gpu is None


def test_the_queue_is_empty_before_the_host_is_timed(cuda: list[str]) -> None:
    assert timing.time_enqueue(lambda: cuda.append("call"), CUDA) >= 0
    assert cuda == ["wait", "call", "wait"]


def test_memory_is_the_peak_beyond_what_was_held(
    cuda: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, megabytes in (("memory_allocated", 3), ("max_memory_allocated", 10)):
        function = create_autospec(getattr(torch.cuda, name), return_value=megabytes * 2**20)
        monkeypatch.setattr(torch.cuda, name, function)
    reset = create_autospec(torch.cuda.reset_peak_memory_stats)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    assert timing.peak_memory_mb(lambda: None, CUDA) == 7
    assert reset.call_count == 1
    assert timing.peak_memory_mb(lambda: None, CPU) is None


def test_waits_of_the_host_are_counted_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []
    setter = create_autospec(torch.cuda.set_sync_debug_mode, side_effect=modes.append)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", setter)

    def call() -> None:
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation (Triggered ...)", stacklevel=1)
        warnings.warn("another", stacklevel=1)

    (counts,) = timing.count_synchronisations(call, CUDA).items()
    assert counts[0].startswith("test_timing.py:")
    assert counts[1] == 3
    assert modes == ["warn", "default"]
    assert timing.count_synchronisations(lambda: None, CPU) == {}


def test_only_kernels_count_in_a_profile(cuda: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    events = [
        SimpleNamespace(key=name, device_type=kind, self_device_time_total=us, count=count)
        for name, kind, us, count in (
            ("short", DeviceType.CUDA, 1000.0, 1),
            ("long", DeviceType.CUDA, 6000.0, 4),
            ("operator", DeviceType.CPU, 7000.0, 1),
        )
    ]
    profiled = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
    with profiled:
        torch.ones(2).sum()
    real = profiled.key_averages()[0]
    assert all(hasattr(real, name) for name in vars(events[0]))

    class Profile:
        def __init__(self, activities: Any) -> None:
            assert activities == [torch.profiler.ProfilerActivity.CUDA]

        def __enter__(self) -> Profile:
            return self

        def __exit__(self, *_: object) -> None: ...

        def key_averages(self) -> Any:
            return events

    monkeypatch.setattr(torch.profiler, "profile", Profile)
    kernels = timing.kernel_times(lambda number: None, CUDA, replace(DRY, profiled_passes=2))
    assert kernels == [("long", 3.0, 2.0), ("short", 0.5, 0.5)]


def test_arms_take_turns_on_the_same_inputs_and_a_failing_one_stops_none() -> None:
    log: list[tuple[str, int]] = []

    def fail(number: int) -> None:
        raise RuntimeError("of one arm")

    arms = {name: (lambda number, name=name: log.append((name, number))) for name in "ab"}
    systems = timing.interleave({**arms, "c": fail}, CPU, DRY, against=("a",))
    assert systems["c"]["error"] == "RuntimeError: of one arm"
    assert systems["a"]["speedup"] == {"a": 1.0}
    assert systems["b"]["wall_ms"]["runs"] == 1  # DRY has no seconds beyond one round
    warm_up = 2 * (DRY.input_sets + 1)
    assert log[warm_up : warm_up + 2] == [("a", 0), ("b", 0)]
    log.clear()
    timing.interleave(arms, CPU, replace(DRY, seconds=60.0), against=("a",))
    timed = log[warm_up : warm_up + 4]
    assert timed == [("a", 0), ("b", 0), ("b", 1), ("a", 1)]
