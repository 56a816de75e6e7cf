"""Processes that take turns, each in limited memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator

import pytest
import torch

from benchmarks.workers import Worker

LIMIT_MB = 256

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits memory by /proc")


def filling(byte: int) -> Callable[[int], float]:
    """Answer with the mean of so many megabytes of a byte; 0 megabytes end the process."""

    def answer(megabytes: int) -> float:
        if not megabytes:
            os._exit(3)
        if megabytes < 0:
            bytearray(-megabytes << 20)
        return float(torch.full((abs(megabytes) << 20,), byte, dtype=torch.uint8).float().mean())

    return answer


@pytest.fixture
def worker() -> Iterator[Worker]:
    started = Worker(filling, (7,), LIMIT_MB)
    yield started
    started.stop()


def test_a_worker_answers_until_it_is_refused_memory(worker: Worker) -> None:
    assert (worker.ask(1), worker.ask(20), worker.lost) == (7.0, 7.0, {})
    assert worker.ask(2 * LIMIT_MB) is None
    assert worker.lost == {"over_mb": LIMIT_MB}
    assert worker.ask(1) is None


def test_memory_that_python_is_refused_counts_too(worker: Worker) -> None:
    assert worker.ask(-2 * LIMIT_MB) is None
    assert worker.lost == {"over_mb": LIMIT_MB}


def test_a_worker_that_dies_is_told_by_its_exit_code(worker: Worker) -> None:
    assert worker.ask(0) is None
    assert worker.lost == {"died": 3}
    assert worker.ask(1) is None


def test_a_worker_that_was_killed_while_it_waited_is_told(worker: Worker) -> None:
    (process,) = multiprocessing.active_children()
    process.kill()
    process.join()
    assert worker.ask(1) is None
    assert worker.lost == {"died": -signal.SIGKILL}


def test_what_cannot_be_made_is_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"before it was ready \(\{'died': 1\}\)"):
        Worker(filling, (), LIMIT_MB)
