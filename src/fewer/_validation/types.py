"""Parse and check values of the command line and of recipes: YAML that reads 1e-3 as a number."""

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
    """Parse YAML. Raises `ValueError` for invalid YAML, with its origin."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{origin} is not valid YAML: {error}") from error


class _Loader(yaml.SafeLoader):
    """Loader that reads 1e-3 as a number; YAML 1.1 requires a point and a sign."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def check_arguments(
    values: Mapping[str, Any],
    function: Callable[..., Any],
    origin: str,
    *,
    kind: str = "key",
    besides: Container[str] = (),
) -> None:
    """Raise `ValueError` for a value that is no parameter of `function`, or of another type.

    Parameters in `besides` are not for users to set.
    """
    parameters = signature(function, eval_str=True).parameters
    hints = {
        name: parameter.annotation for name, parameter in parameters.items() if name not in besides
    }
    for name in values:
        check_known(name, hints, f"{origin}: {kind}")
    check_types(values, hints, origin)


def check_types(values: Mapping[str, Any], hints: Mapping[str, Any], origin: str) -> None:
    """Raise `ValueError`, with the name, for a value that is not of its annotated type.

    Whole numbers are valid numbers and lists are valid tuples, of any length. NaN, infinities and
    integers beyond 64 bits are invalid. For a `Literal` only the type of its values is checked, and
    types without plain values are not checked.
    """
    for name, value in values.items():
        if name in hints and not _fits(value, hints[name]):
            bounds = "" if _is_bounded(value) else ", finite and below 2**63"
            expected = _describe_type(hints[name])
            raise ValueError(f"{origin}: {name} is {value!r}, wanted {expected}{bounds}")


def check_length(max_length: object) -> None:
    """Raise `TypeError` or `ValueError` unless `max_length` is a whole number, 1 or more."""
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
    """Return whether a number is finite and, if whole, fits into 64 bits."""
    if isinstance(value, Integral):
        return abs(int(value)) < 2**63
    return not isinstance(value, Real) or math.isfinite(value)


def _fits(value: Any, hint: Any) -> bool:
    types = _list_types(hint)
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            return False
        types = types[:1] * len(value) if types[-1] is ... else types
        return all(map(_fits, value, types))
    if types:
        return any(_fits(value, type_) for type_ in types)
    if hint not in _PLAIN:
        return True
    if not _is_bounded(value):
        return False
    return isinstance(value, _PLAIN[hint][0]) and (hint is bool or not isinstance(value, bool))


def _describe_type(hint: Any) -> str:
    names = dict.fromkeys(_describe_type(type_) for type_ in _list_types(hint) if type_ is not ...)
    text = " or ".join(names) or (_PLAIN[hint][1] if hint in _PLAIN else str(hint))
    return f"a list ({text} each)" if get_origin(hint) is tuple else text


def _list_types(hint: Any) -> tuple[Any, ...]:
    """Return the member types of a union, a `Literal` or a tuple; nothing for other hints."""
    origin, members = get_origin(hint), get_args(hint)
    if origin is Literal:
        return tuple(type(member) for member in members)
    return members if origin in (Union, UnionType, tuple) else ()
