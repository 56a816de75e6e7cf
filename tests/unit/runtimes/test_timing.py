"""Times of batches, by a clock that only the systems move."""

from __future__ import annotations

import pytest
import torch

from fewer.runtimes.adapters import Runner
from fewer.runtimes.feeding import FEEDINGS, Inputs, feed
from fewer.runtimes.timing import (
    Batch,
    Times,
    choose_clock,
    compute_ratio,
    find_feeding,
    measure_times,
    run_parts,
    summarise,
)
from tests.clock import Clock
from tests.tiny import ragged, tiny

LENGTHS = (4, 10, 1, 3, 2, 5, 6, 7, 8, 9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    clock.install(monkeypatch, "fewer.measure.interleaved", "fewer.runtimes.timing")
    return clock


def draw() -> Batch:
    inputs = ragged(tiny(), LENGTHS)
    return Batch({name: feed(inputs, name) for name in FEEDINGS}, len(LENGTHS), sum(LENGTHS), 1e6)


def per_position(clock: Clock) -> Runner:
    """Return a system that takes a millisecond for each position, padding included."""

    def call(inputs: Inputs) -> torch.Tensor:
        clock.sleep(inputs["input_ids"].numel() / 1e3)
        return inputs["input_ids"][:, :1]

    return Runner(call, "fp32")


def test_each_feeding_is_timed_as_a_whole(clock: Clock) -> None:
    times = measure_times({"a": per_position(clock)}, [draw()], 2, "x")["a"]
    assert times["whole"].wall == pytest.approx([100.0, 100.0])
    assert times["alone"].cpu == pytest.approx([55.0, 55.0])
    assert times["sorted"].wall == pytest.approx([84.0, 84.0])  # 8 texts of 8, 2 of 10
    assert find_feeding(times, "cpu") == "alone"


def test_the_counted_clock_gives_the_feeding_and_the_throughput() -> None:
    times = {"whole": Times([10.0], [4.0]), "alone": Times([5.0], [8.0])}
    assert (find_feeding(times, "wall"), find_feeding(times, "cpu")) == ("alone", "whole")
    summary = summarise(times, "whole", "cpu", [draw()], peak=1e9)
    assert summary["tokens_per_s"] == pytest.approx(sum(LENGTHS) / 0.004)
    assert summary["share"] == pytest.approx(0.25)
    assert (summary["median"], summary["cpu"]["median"]) == (10.0, 4.0)
    assert summary["feedings"]["alone"] == {"wall": 5.0, "cpu": 8.0}


def test_logits_are_those_of_the_rows_in_any_feeding() -> None:
    runner = Runner(lambda inputs: inputs["input_ids"].double(), "fp32")
    first = Runner(lambda inputs: runner.call(inputs)[:, :1], "fp32")
    batch = draw()
    expected = batch.parts["whole"][0].inputs["input_ids"][:, :1].float()
    for feeding in FEEDINGS:
        assert torch.equal(run_parts(first, batch.parts[feeding]), expected)


def test_process_time_counts_on_one_thread_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert choose_clock() == "wall"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert choose_clock() == "cpu"


def test_a_ratio_is_the_median_over_pairs() -> None:
    over, under = Times([2.0, 9.0, 8.0], [1.0] * 3), Times([1.0, 3.0, 1.0], [2.0] * 3)
    assert compute_ratio(over, under, "wall") == 3.0
    assert compute_ratio(over, under, "cpu") == 0.5
    assert compute_ratio(Times([1.0, 3.0], []), Times([1.0, 1.0], []), "wall") == 2.0
