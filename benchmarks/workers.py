"""Processes of their own that take turns, each with so much memory and no more."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.support.memory import limit_growth

__all__ = ["Worker"]

Answer = Callable[[int], float]
_REFUSED = ("can't allocate memory", "std::bad_alloc")


class Worker:
    """A process that makes something once and then answers questions about it, one at a time.

    `lost` is empty while it answers. After that it says why not: `over_mb`, the megabytes beyond
    what was made that did not suffice, or `died`, the exit code (minus the signal).
    """

    def __init__(self, make: Callable[..., Answer], told: tuple[Any, ...], limit_mb: int) -> None:
        self.lost: dict[str, int] = {}
        self._limit_mb = limit_mb
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, make, told, limit_mb), daemon=True
        )
        self._process.start()
        theirs.close()  # else its end would not be noticed here
        if self._heard() is None:
            raise RuntimeError(f"a worker ended before it was ready ({self.lost}): see above")

    def ask(self, question: int) -> float | None:
        """Wait for the answer; `None` if there is none, now or from an earlier question on."""
        if self.lost:
            return None
        with suppress(OSError):  # it has died; so hears who listens
            self._connection.send(question)
        return self._heard()

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _heard(self) -> float | None:
        try:
            answer: float | None = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            self.lost = {"died": self._process.exitcode or 0}
            return None
        if answer is None:
            self.lost = {"over_mb": self._limit_mb}
        return answer


def _serve(
    asked: Connection, make: Callable[..., Answer], told: tuple[Any, ...], limit_mb: int
) -> None:
    """Answer until nobody asks any more, or memory is refused: then with `None`, the last time."""
    answer = make(*told)
    limit_growth(limit_mb)
    asked.send(0.0)
    while True:
        try:
            question = asked.recv()
        except EOFError:
            return
        try:
            asked.send(answer(question))
        except (MemoryError, RuntimeError) as error:
            if not _is_refusal(error):
                raise
            asked.send(None)
            return


def _is_refusal(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(said in str(error) for said in _REFUSED)
