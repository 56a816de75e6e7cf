"""Columns by name and names in messages, for all tasks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fewer._validation.names import nearest

if TYPE_CHECKING:
    from datasets import Dataset


class DataWarning(UserWarning):
    """Some rows are malformed; they were repaired, dropped or left out of training."""


def check_has_rows(rows: Dataset) -> None:
    """Raise `TypeError` for what is no `datasets.Dataset`, `ValueError` for one without rows."""
    from datasets import Dataset

    if not isinstance(rows, Dataset):
        split = "Choose one split: data['train']. " if isinstance(rows, dict) else ""
        raise TypeError(
            f"rows must be a datasets.Dataset; got a {type(rows).__name__}. {split}Make one: "
            "Dataset.from_list(rows), Dataset.from_pandas(frame) or fewer.tasks.read_rows(file)."
        )
    if not len(rows):
        raise ValueError("rows must hold rows to infer a task from; got no rows.")


def known_column(column: str, rows: Dataset) -> str:
    """Return the name of a column that exists."""
    if column in rows.column_names:
        return column
    raise ValueError(
        f"the rows must have every named column; got no column {column!r}"
        f"{nearest(column, rows.column_names)} among {list_names(rows.column_names)}."
    )


def usual_column(rows: Dataset, names: Iterable[str]) -> str | None:
    """Return the column of the first of these lower-case names that a column has, in any case."""
    columns: dict[str, str] = {name.lower(): name for name in rows.column_names}
    return next((columns[name] for name in names if name in columns), None)


def column_values(rows: Dataset, column: str) -> list[Any]:
    """Return all values of a column that exists."""
    return list(rows[known_column(column, rows)][:])


def is_null_name(name: str) -> bool:
    """Check whether a string is blank, or a missing value as pandas writes it.

    >>> [name for name in ("nan", "<NA>", " ", "None", "NA") if is_null_name(name)]
    ['nan', '<NA>', ' ']
    """
    return name.strip().lower() in ("", "nan", "<na>", "nat")


def list_names(names: Iterable[str], limit: int = 12) -> str:
    """List names for a message, at most `limit` of them."""
    quoted = [repr(name if len(name) <= 40 else name[:39] + "…") for name in names]
    more = f", ... ({len(quoted)} in all)" if len(quoted) > limit else ""
    return ", ".join(quoted[:limit]) + more


def excerpt(text: str, position: int = 0) -> str:
    """Quote part of a text around a position."""
    start = max(position - 20, 0)
    return repr(text[start : start + 60]) + ("..." if len(text) > start + 60 else "")
