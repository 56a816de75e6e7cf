"""Columns of rows by their names, and names in messages: what the tasks share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fewer._validation.names import nearest

if TYPE_CHECKING:
    from datasets import Dataset


class DataWarning(UserWarning):
    """Some rows are not as they should be; they were mended, dropped or kept from training."""


def known_column(column: str, rows: Dataset) -> str:
    """Return the name of a column that exists."""
    if column in rows.column_names:
        return column
    raise ValueError(
        f"there is no column {column!r}{nearest(column, rows.column_names)}: the rows have "
        f"{few(rows.column_names)}"
    )


def column_values(rows: Dataset, column: str) -> list[Any]:
    """Take all values of a column that exists."""
    return list(rows[known_column(column, rows)][:])


def is_null_name(name: str) -> bool:
    """Tell whether a string is what a missing value is written as by pandas, or blank.

    >>> [name for name in ("nan", "<NA>", " ", "None", "NA") if is_null_name(name)]
    ['nan', '<NA>', ' ']
    """
    return name.strip().lower() in ("", "nan", "<na>", "nat")


def few(names: Iterable[str], most: int = 12) -> str:
    """List names for a message, not all of a thousand."""
    listed = [repr(name if len(name) <= 40 else name[:39] + "…") for name in names]
    more = f", ... ({len(listed)} in all)" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def excerpt(text: str, position: int = 0) -> str:
    """Quote some of a text around a position."""
    start = max(position - 20, 0)
    return repr(text[start : start + 60]) + ("..." if len(text) > start + 60 else "")
