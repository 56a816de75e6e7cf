"""Classes that `attach` gives to objects of other libraries, in place, and takes back.

A class created at run time cannot be pickled by name; what it was created from can. So copies and
pickles of such objects are restored by the function that derives their class, and its arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import nn

__all__ = ["Swapped", "derive_class"]


class Swapped(nn.Module):
    """Mixin of the derived classes."""

    _fewer_derive: ClassVar[Callable[..., Any]]
    _fewer_origin: ClassVar[tuple[Any, ...]]  # its arguments, the original class first

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _restore, (self._fewer_derive, *self._fewer_origin), self.__dict__


def derive_class(
    derive: Callable[..., Any],
    origin: tuple[Any, ...],
    mixins: tuple[type, ...],
    **attributes: Any,
) -> Any:
    """Derive a class from the first of `origin`; `derive(*origin)` must return it again.

    Its name and module stay, because pipelines and `config.architectures` read them.
    """
    original = origin[0]
    namespace = {
        "__module__": original.__module__,
        "__qualname__": original.__qualname__,
        "__doc__": original.__doc__,
        "_fewer_derive": staticmethod(derive),
        "_fewer_origin": origin,
    }
    return type(original.__name__, (*mixins, original), namespace | attributes)


def _restore(derive: Callable[..., Any], *origin: Any) -> Any:
    cls = derive(*origin)
    return cls.__new__(cls)
