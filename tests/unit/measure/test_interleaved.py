"""Interleaving: rows of batches, order of systems, statistics of times."""

from __future__ import annotations

import pytest
import torch

from fewer.measure.interleaved import draw_batches, rotate, summarize_times, time_call


def test_each_batch_holds_a_text_once_and_the_seed_decides() -> None:
    rows = draw_batches(6, 4, 3, seed=1)
    assert len(rows) == 12
    assert all(len(set(rows[start : start + 4])) == 4 for start in (0, 4, 8))
    assert rows == draw_batches(6, 4, 3, seed=1) != draw_batches(6, 4, 3, seed=2)


@pytest.mark.parametrize(
    ("size", "count", "message"),
    [(7, 1, "^size .*got 7"), (0, 1, "size must .*of 0"), (2, 0, "^count .*got 0")],
)
def test_sizes_and_counts_out_of_range_are_refused(size: int, count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_batches(6, size, count, seed=0)


def test_every_system_begins_a_turn() -> None:
    assert [rotate(["a", "b", "c"], turn)[0] for turn in range(4)] == ["a", "b", "c", "a"]


def test_a_call_is_made_once_and_without_gradients() -> None:
    calls = []
    milliseconds = time_call(lambda: calls.append(torch.is_grad_enabled()), torch.device("cpu"))
    assert calls == [False]
    assert milliseconds > 0


def test_the_spread_holds_median_percentiles_and_count() -> None:
    summary = summarize_times([float(n) for n in range(1, 102)])
    assert summary == {"median": 51.0, "p5": 6.0, "p95": 96.0, "runs": 101}
