"""A property that is computed once per object, without a lock.

`functools.cached_property` holds one lock for all objects of a class before Python 3.12. A process
that forks while another thread is inside it leaves the lock held in the child for ever, and threads
that predict at once wait for each other. Here two threads may compute the same value twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

__all__ = ["cached_property"]

Value = TypeVar("Value")


class cached_property(Generic[Value]):
    """Compute a property at its first use and keep it in the object's `__dict__`."""

    def __init__(self, function: Callable[[Any], Value]) -> None:
        self.__doc__ = function.__doc__
        self._function = function

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> cached_property[Value]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> Value: ...

    def __get__(self, instance: object | None, owner: type) -> cached_property[Value] | Value:
        if instance is None:
            return self
        value: Value = self._function(instance)
        vars(instance)[self._name] = value
        return value
