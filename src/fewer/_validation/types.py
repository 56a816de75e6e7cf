"""Values as users write them, on the command line and in recipes: YAML, with 1e-3 a number too."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Container, Mapping
from inspect import signature
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from fewer._validation.names import check_known

__all__ = ["check_arguments", "check_length", "check_types", "read_values"]


def read_values(text: str, origin: str) -> Any:
    """Read YAML. Raises `ValueError` for what is none, and says where it stands."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{origin} is not valid YAML: {error}") from error


class _Loader(yaml.SafeLoader):
    """YAML 1.1 wants a point and a sign: its 1e-3 is a word."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def check_arguments(
    values: Mapping[str, Any],
    taker: Callable[..., Any],
    origin: str,
    *,
    kind: str = "key",
    besides: Container[str] = (),
) -> None:
    """Raise `ValueError` for a value that `taker` does not take, or takes as another type.

    What it takes `besides` is not the user's to give.
    """
    taken = signature(taker, eval_str=True).parameters
    hints = {name: one.annotation for name, one in taken.items() if name not in besides}
    for name in values:
        check_known(name, hints, f"{origin}: {kind}")
    check_types(values, hints, origin)


def check_types(values: Mapping[str, Any], hints: Mapping[str, Any], origin: str) -> None:
    """Raise `ValueError` for a value that is not of its annotated type, by name.

    Whole numbers are numbers too, and lists tuples, of any length; NaN and infinities are none, nor
    are whole numbers that no processor holds. Of a choice only the type is checked, and of types
    that have no plain values nothing.
    """
    for name, value in values.items():
        if name in hints and not _fits(value, hints[name]):
            bounds = "" if _is_bounded(value) else ", finite and below 2**63"
            raise ValueError(f"{origin}: {name} is {value!r}, wanted {_told(hints[name])}{bounds}")


def check_length(max_length: object) -> None:
    """Raise `TypeError` or `ValueError` unless this is a number of tokens, 1 or more."""
    if not isinstance(max_length, Integral) or isinstance(max_length, bool):
        raise TypeError(f"max_length must be a whole number of tokens; got {max_length!r}.")
    if max_length < 1:
        raise ValueError(
            f"max_length must be 1 or more tokens; got {max_length}. Leave it out for the limit "
            "of the tokenizer and the model."
        )


_PLAIN: dict[Any, tuple[type, str]] = {
    bool: (bool, "true or false"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "a word"),
    NoneType: (NoneType, "none"),
}


def _is_bounded(value: Any) -> bool:
    """Tell whether a number is finite, and a whole one such that tensors hold it."""
    if isinstance(value, Integral):
        return abs(int(value)) < 2**63
    return not isinstance(value, Real) or math.isfinite(value)


def _fits(value: Any, hint: Any) -> bool:
    of = _parts(hint)
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            return False
        of = of[:1] * len(value) if of[-1] is ... else of
        return all(map(_fits, value, of))
    if of:
        return any(_fits(value, one) for one in of)
    if hint not in _PLAIN:
        return True
    if not _is_bounded(value):
        return False
    return isinstance(value, _PLAIN[hint][0]) and (hint is bool or not isinstance(value, bool))


def _told(hint: Any) -> str:
    of = dict.fromkeys(_told(one) for one in _parts(hint) if one is not ...)
    told = " or ".join(of) or (_PLAIN[hint][1] if hint in _PLAIN else str(hint))
    return f"a list ({told} each)" if get_origin(hint) is tuple else told


def _parts(hint: Any) -> tuple[Any, ...]:
    """Return what a choice or a tuple is made of, by type; nothing for any other hint."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return tuple(type(one) for one in parts)
    return parts if origin in (Union, UnionType, tuple) else ()
