"""Progress bars for long loops, on standard error and only on a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

__all__ = ["track"]

T = TypeVar("T")
DELAY_S = 2.0  # shorter loops show no bar


def track(items: Iterable[T], title: str, *, shown: bool = True) -> Iterable[T]:
    """Yield the items; a bar appears after `DELAY_S` and is removed at the end.

    Nothing is written to standard output, nor to a standard error that is no terminal.
    """
    if not shown or (isinstance(items, list | range) and len(items) < 2):
        return items
    from tqdm import tqdm

    bar: Iterable[T] = tqdm(items, desc=title, delay=DELAY_S, leave=False, disable=None)
    return bar
