"""Texts without labels, from the columns of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["read_texts"]


def read_texts(rows: Dataset, names: dict[str, Any]) -> tuple[list[Any], list[Any] | None]:
    """Return the texts, or lists of words, and the second texts of pairs, if there are any.

    A query and its document, a row, are such a pair.
    """
    if "query" in names or "document" in names:
        query, document = names.get("query", "query"), names.get("document", "document")
        names = {"text": query, "text_pair": document}
    text, pair = _text_columns(rows, names)
    return rows[text][:], None if pair is None else rows[pair][:]


def _text_columns(rows: Dataset, names: dict[str, Any]) -> tuple[str, str | None]:
    """Return the columns of texts, or of words, and of second texts, as `fewer fit` finds them."""
    from fewer.tasks.classification import LABEL_COLUMNS, find_text_columns
    from fewer.tasks.columns import usual_column

    if "tokens" in names:
        return names["tokens"], None
    if "text" not in names and "tokens" in rows.column_names and "text" not in rows.column_names:
        return "tokens", None
    label = names.get("label") or usual_column(rows, LABEL_COLUMNS) or ""
    text, pair = find_text_columns(rows, names.get("text"), names.get("text_pair"), label)
    if pair is not None and "text_pair" not in names:
        typer.echo(f"texts: pairs of the columns {text} and {pair}")
    return text, pair
