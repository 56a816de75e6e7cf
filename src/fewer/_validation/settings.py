"""Settings checked by pydantic: dataclasses, functions, values; errors of one template."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec, TypeVar, cast

from pydantic import ConfigDict, GetCoreSchemaHandler, TypeAdapter, ValidationError, validate_call
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_core import CoreSchema, ErrorDetails, core_schema
from typing_extensions import dataclass_transform

from fewer._validation.names import describe_unknown, nearest

__all__ = ["OneOf", "build", "checked", "settings", "validate"]

T = TypeVar("T")
P = ParamSpec("P")
_UNKNOWN = ("unexpected_keyword_argument", "multiple_argument_values")
_CONFIG = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True, extra="forbid")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def settings(cls: type[T]) -> type[T]:
    """Make a frozen, keyword-only dataclass that checks its values.

    Raises `ValueError` for a value outside its type or range, and `TypeError` for an argument that
    is unknown, missing or positional.
    """
    kind: Any = pydantic_dataclass(frozen=True, kw_only=True, config=_CONFIG)(cls)
    kind.__init__ = _translated(kind.__init__, kind, bound=1)
    return cast("type[T]", kind)


def checked(function: Callable[P, T]) -> Callable[P, T]:
    """Check the arguments of a function by their annotations; errors as of `settings`."""
    return _translated(validate_call(config=_CONFIG)(function), function)


def validate(hint: Any, value: Any, name: str) -> Any:
    """Return `value` as of a type. Raises `ValueError` with its name if it does not fit."""
    try:
        return TypeAdapter(hint, config=_CONFIG).validate_python(value)
    except ValidationError as error:
        raise ValueError(_message(error.errors()[0], name)) from None


def build(kind: Callable[..., T], values: Mapping[str, Any], origin: str) -> T:
    """Return `kind(**values)`. Raises `ValueError` with the origin of the values."""
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{origin}: {error}") from error


@dataclass(frozen=True)
class OneOf:
    """Annotate a value that must be one of these."""

    choices: tuple[Any, ...]

    def __get_pydantic_core_schema__(self, _: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.literal_schema(list(self.choices))


def _translated(
    function: Callable[P, T], owner: Callable[..., Any], bound: int = 0
) -> Callable[P, T]:
    """Translate pydantic's errors; the first `bound` arguments are not in `owner`'s signature."""

    @wraps(function)
    def call(*args: P.args, **values: P.kwargs) -> T:
        try:
            return function(*args, **values)
        except ValidationError as error:
            raise _translate(error.errors(), owner, len(args) - bound) from None

    return call


def _translate(
    details: list[ErrorDetails], owner: Callable[..., Any], positional: int
) -> TypeError | ValueError:
    """Turn errors of pydantic into one; unknown names go first, as they explain missing ones."""
    detail = next((entry for entry in details if entry["type"] in _UNKNOWN), details[0])
    kind, location = detail["type"], detail["loc"]
    if not location:  # raised by __post_init__
        return ValueError(str(detail["ctx"]["error"]))
    parameters = list(signature(owner).parameters.values())
    names = [parameter.name for parameter in parameters]
    if kind in _UNKNOWN:
        return TypeError(describe_unknown(location[0], names[positional:], "setting"))
    if kind == "unexpected_positional_argument":
        return TypeError(f"settings must be given by name; got a positional {detail['input']!r}.")
    index = location[0] if isinstance(location[0], int) else names.index(location[0])
    items = "".join(f"[{part}]" for part in location[1:] if isinstance(part, int))
    if kind.startswith("missing"):
        missing = " and ".join(str(entry["loc"][0]) for entry in details if entry["type"] == kind)
        error = ValueError if items else TypeError
        return error(f"{names[index] + items if items else missing} must be given.")
    message, default = _message(detail, names[index] + items), parameters[index].default
    if isinstance(default, int | float | str | tuple):
        message += f" The default is {default!r}."
    return ValueError(message)


def _message(detail: ErrorDetails, name: str) -> str:
    """Write `NAME must CONSTRAINT; got VALUE.` with the constraint in pydantic's words."""
    expected, value = re.sub(r"^.*? should | after .*$", "", detail["msg"]), detail["input"]
    choices = re.findall("'(.*?)'", expected) if detail["type"] == "literal_error" else []
    return f"{name} must {expected}; got {value!r:.80}{nearest(value, choices)}."
