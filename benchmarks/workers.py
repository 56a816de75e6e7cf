"""Worker processes that take turns, each with a memory limit."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from fewer.measure.memory import limit_growth

__all__ = ["Worker"]

Answer = Callable[[int], float]
_REFUSED = ("can't allocate memory", "std::bad_alloc")


class Worker:
    """A process that builds something once and then answers questions about it, one at a time.

    `lost` is empty while it answers. After that it says why not: `over_mb`, the megabytes beyond
    the setup that did not suffice, or `died`, the exit code (minus the signal).
    """

    def __init__(
        self, make: Callable[..., Answer], arguments: tuple[Any, ...], limit_mb: int
    ) -> None:
        self.lost: dict[str, int] = {}
        self._limit_mb = limit_mb
        context = multiprocessing.get_context("spawn")
        self._connection, child = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(child, make, arguments, limit_mb), daemon=True
        )
        self._process.start()
        child.close()  # else the end of the process would go unnoticed
        if self._receive() is None:
            raise RuntimeError(f"a worker ended before it was ready ({self.lost}): see above")

    def ask(self, question: int) -> float | None:
        """Wait for the answer; `None` if there is none, now or from an earlier question on."""
        if self.lost:
            return None
        with suppress(OSError):  # it has died; receiving reports that
            self._connection.send(question)
        return self._receive()

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _receive(self) -> float | None:
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
    connection: Connection, make: Callable[..., Answer], arguments: tuple[Any, ...], limit_mb: int
) -> None:
    """Answer until the connection closes, or memory is refused: then a last time, with `None`."""
    answer = make(*arguments)
    limit_growth(limit_mb)
    connection.send(0.0)
    while True:
        try:
            question = connection.recv()
        except EOFError:
            return
        try:
            connection.send(answer(question))
        except (MemoryError, RuntimeError) as error:
            if not _is_refusal(error):
                raise
            connection.send(None)
            return


def _is_refusal(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(message in str(error) for message in _REFUSED)
