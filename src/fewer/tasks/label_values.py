"""Values of labels as names: numbers and names in any type of a file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeGuard

__all__ = [
    "check_spelling",
    "format_label",
    "index_names",
    "is_integer",
    "is_integral",
    "is_number",
    "sort_key",
]

_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")


def index_names(names: Sequence[str]) -> dict[str, int]:
    """Map the values of labels to outputs: names, and indices unless names are numbers."""
    outputs = {name: index for index, name in enumerate(names)}
    if any(map(is_integer, outputs)):
        return outputs
    return {str(index): index for index in outputs.values()} | outputs


def format_label(value: object) -> str:
    """Format a label as a name: 1, 1.0 and True are "1"."""
    return str(int(value)) if isinstance(value, bool) or is_integral(value) else str(value)


def check_spelling(names: list[str], label: str) -> None:
    """Raise `ValueError` for a class in two spellings, and for numbers with a decimal comma."""
    stripped: dict[str, str] = {}
    for name in names:
        spelling = stripped.setdefault(name.strip(), name)
        if spelling != name:
            raise ValueError(
                f"column {label!r}: labels must differ by more than blanks; got {spelling!r} and "
                f"{name!r}. Remove the blanks, or set label_names=(...)"
            )
    if all(_DECIMAL_COMMA.fullmatch(name) or is_integer(name) for name in names) and any(
        map(_DECIMAL_COMMA.fullmatch, names)
    ):
        raise ValueError(
            f"column {label!r}: numbers must be written with a decimal point; got {names[-1]!r}. "
            "Replace the comma, or set label_names=(...)"
        )


def is_integral(value: object) -> TypeGuard[float]:
    """Check for a float without a fraction."""
    return isinstance(value, float) and value.is_integer()


def is_number(text: str) -> bool:
    """Check whether a text is a number, NaN and infinity included."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def is_integer(text: str) -> bool:
    """Check whether a text is a whole number."""
    try:
        int(text)
    except ValueError:
        return False
    return True


def sort_key(name: str) -> tuple[bool, int, str]:
    """Return a key that sorts numbers by value, before words."""
    return (False, int(name), name) if is_integer(name) else (True, 0, name)
