"""Hand cached states to the encoder inside a head model, whose `forward` has no such argument."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from fewer.core.cached_states import CachedStates

__all__ = ["current_states", "with_cached_states"]

_STATES: ContextVar[CachedStates | None] = ContextVar("fewer_cached_states", default=None)


@contextmanager
def with_cached_states(states: CachedStates) -> Iterator[None]:
    """Start passes of this thread inside the block from the states of their second texts."""
    token = _STATES.set(states)
    try:
        yield
    finally:
        _STATES.reset(token)


def current_states() -> CachedStates | None:
    """Return the states of the innermost block."""
    return _STATES.get()
