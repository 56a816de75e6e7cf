"""Types of settings, with their ranges; pydantic checks them, and makes tuples of lists."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BeforeValidator, Strict
from pydantic_core import PydanticCustomError

__all__ = [
    "Count",
    "Fraction",
    "LayerNumbers",
    "Natural",
    "NonNegative",
    "Number",
    "Pair",
    "Positive",
    "Probability",
    "Proportion",
    "Seed",
    "Triple",
    "Whole",
    "check_length",
]


def _to_plain(value: Any) -> Any:
    """Convert numbers of NumPy; integers beyond 64 bits are refused."""
    if isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        if abs(int(value)) >= 2**63:
            raise PydanticCustomError("too_large", "Input should be below 2**63")
        return int(value)
    return float(value) if isinstance(value, Real) else value


# Ranges are of annotated_types: pydantic 2.8 to 2.11 write the default of one setting into a shared
# `Field`, where the next setting finds it.
_PLAIN = BeforeValidator(_to_plain)
Whole = Annotated[int, _PLAIN]
Natural = Annotated[int, _PLAIN, Ge(0)]
Count = Annotated[int, _PLAIN, Ge(1)]
Seed = Annotated[int, _PLAIN, Ge(0), Lt(2**32)]  # the range of NumPy
Number = Annotated[float, _PLAIN]
Positive = Annotated[float, _PLAIN, Gt(0)]
NonNegative = Annotated[float, _PLAIN, Ge(0)]
Fraction = Annotated[float, _PLAIN, Gt(0), Lt(1)]
Proportion = Annotated[float, _PLAIN, Ge(0), Le(1)]
Probability = Annotated[float, _PLAIN, Ge(0), Lt(1)]  # of dropout; also a warm-up's fraction
Pair = Annotated[tuple[NonNegative, NonNegative], Strict(False)]  # epochs or learning rates
Triple = Annotated[tuple[NonNegative, NonNegative, NonNegative], Strict(False)]
LayerNumbers = Annotated[tuple[Count, ...], Strict(False)]  # counted from 1


def check_length(max_length: object) -> None:
    """Raise `TypeError` or `ValueError` unless `max_length` is a whole number, 1 or more."""
    if not isinstance(max_length, Integral) or isinstance(max_length, bool):
        raise TypeError(f"max_length must be a whole number of tokens; got {max_length!r}.")
    if max_length < 1:
        raise ValueError(
            f"max_length must be 1 or more tokens; got {max_length}. Leave it out for the limit "
            "of the tokenizer and the model."
        )
