"""Turns: what is drawn, who begins, what a spread says."""

from __future__ import annotations

import pytest
import torch

from fewer.measure.interleaved import draw, once, rotated, spread


def test_each_batch_holds_a_text_once_and_the_seed_decides() -> None:
    drawn = draw(6, 4, 3, seed=1)
    assert len(drawn) == 12
    assert all(len(set(drawn[start : start + 4])) == 4 for start in (0, 4, 8))
    assert drawn == draw(6, 4, 3, seed=1) != draw(6, 4, 3, seed=2)


@pytest.mark.parametrize(
    ("size", "count", "said"), [(7, 1, "batch of 7"), (0, 1, "1 or more"), (2, 0, "1 or more")]
)
def test_what_cannot_be_drawn_is_refused(size: int, count: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        draw(6, size, count, seed=0)


def test_every_system_begins_a_turn() -> None:
    assert [rotated(["a", "b", "c"], turn)[0] for turn in range(4)] == ["a", "b", "c", "a"]


def test_a_call_is_made_once_and_without_gradients() -> None:
    calls = []
    taken = once(lambda: calls.append(torch.is_grad_enabled()), torch.device("cpu"))
    assert calls == [False]
    assert taken > 0


def test_the_spread_is_of_the_times_given() -> None:
    told = spread([float(n) for n in range(1, 102)])
    assert told == {"median": 51.0, "p5": 6.0, "p95": 96.0, "runs": 101}
