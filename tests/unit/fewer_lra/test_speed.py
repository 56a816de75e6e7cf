"""Rates are of examples over the median time of a step, the first ones left out."""

from __future__ import annotations

import pytest
import torch

from fewer_lra.speed import _measure_speed
from tests.clock import Clock


def test_the_rate_is_of_the_median_step_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, seconds = Clock(), iter([9.0, 9.0, 0.5, 4.0, 0.25, 0.5, 0.5])
    clock.install(monkeypatch, "fewer_lra.speed")
    found = _measure_speed(lambda: clock.sleep(next(seconds)), 16, 5, torch.device("cpu"))
    assert found == {"examples_per_s": 32.0, "examples_per_cpu_s": 32.0, "steps": 5}
