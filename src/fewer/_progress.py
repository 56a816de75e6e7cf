"""Progress bars: on standard error, on a terminal, and only for what takes a while."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

__all__ = ["track"]

T = TypeVar("T")
DELAY_S = 2.0  # what is over sooner needs no bar


def track(items: Iterable[T], title: str, *, shown: bool = True) -> Iterable[T]:
    """Yield the items; a bar shows once they have taken `DELAY_S` and is removed at the end.

    Nothing is ever written to standard output, nor to a standard error that is no terminal.
    """
    if not shown or (isinstance(items, list | range) and len(items) < 2):
        return items
    from tqdm import tqdm

    bar: Iterable[T] = tqdm(items, desc=title, delay=DELAY_S, leave=False, disable=None)
    return bar
