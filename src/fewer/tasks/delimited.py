"""Columns of comma- or tab-separated text, as spreadsheets, pandas and GLUE write it.

| case | result |
|---|---|
| the names hold no usual separator, but `;`, a tab, a comma or `|` | that is the separator |
| a first line `sep=;`, from Excel | sets the separator, and is skipped |
| blanks around names | dropped; if a name has a leading one, also those before values |
| a column without a name | named as in pandas, "Unnamed: 0" |
| an empty column at the end of lines | dropped |
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fewer.tasks.columns import excerpt

Columns = dict[str, list[str]]

_MAX_FIELD_CHARS = 2**31 - 1
_EXCEL = re.compile(r'"?sep=(.)"?\r?\n')
_HEADER_CHARS = 100_000
_SEPARATORS = ",;\t|"
_SEPARATOR_NAMES = {"\t": "a tab", ",": "a comma", ";": "';'", "|": "'|'"}


def read_delimited(
    path: Path, text: str, *, delimiter: str, quoting: int
) -> tuple[Columns, list[str]]:
    """Return the columns, values as text, and the first line of each row ("line 2").

    Raises `ValueError` with the line of a row with too many or too few fields.
    """
    skipped = 0
    separator = delimiter
    if excel := _EXCEL.match(text):
        separator, skipped = excel[1], 1
        text = text[excel.end() :]
    elif len(_split_first_line(text, delimiter, quoting)) < 2:
        separator = _sniff_separator(text) or delimiter
    dialect: dict[str, Any] = {"delimiter": separator, "strict": True}
    dialect["quoting"] = quoting if separator == delimiter else csv.QUOTE_MINIMAL
    names = _split_first_line(text, separator, dialect["quoting"])
    dialect["skipinitialspace"] = any(name != name.lstrip(" ") for name in names[1:])
    rows = list(_iterate_rows(path, text, dialect))  # exhausted, or the limit stays raised
    if not rows:
        return {}, []
    names = [name.strip() for name in rows.pop(0)[1]]
    if len(names) > 1:
        rows = [(line, values) for line, values in rows if len(values) > 1 or values[0].strip()]
    names = _drop_empty_ends(names, [values for _, values in rows])
    for line, values in rows:
        if len(values) != len(names):
            raise ValueError(_describe_misfit(path, line + skipped, names, values, dialect))
    columns = [list(column) for column in zip(*(values for _, values in rows), strict=True)]
    column_values = dict(zip(_name_columns(path, names), columns, strict=False))
    return column_values, [f"line {line + skipped}" for line, _ in rows]


def _split_first_line(text: str, delimiter: str, quoting: int) -> list[str]:
    """Return the fields of the first line that is not blank."""
    dialect: Any = {"delimiter": delimiter, "quoting": quoting}  # stubs require literals
    return next(
        filter(None, csv.reader(io.StringIO(text[:_HEADER_CHARS], newline=""), **dialect)), []
    )


def _sniff_separator(text: str) -> str | None:
    """Guess the separator from the names; None if there is only one name."""
    line = text[:_HEADER_CHARS].lstrip("\r\n").partition("\n")[0]
    try:
        separator = csv.Sniffer().sniff(line, _SEPARATORS).delimiter
    except csv.Error:
        return None
    return separator if len(_split_first_line(line, separator, csv.QUOTE_MINIMAL)) > 1 else None


def _iterate_rows(
    path: Path, text: str, dialect: dict[str, Any]
) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, each with its first line."""
    # the default is 131,072 characters per field; the setting is global, so it is restored
    limit = csv.field_size_limit(_MAX_FIELD_CHARS)
    lines = csv.reader(io.StringIO(text, newline=""), **dialect)
    line = 1
    try:
        for values in lines:
            if values:
                yield line, values
            line = lines.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{path}, row from line {line}: fields must be quoted correctly; got {error}. Check "
            "the quotes."
        ) from None
    finally:
        csv.field_size_limit(limit)


def _drop_empty_ends(names: list[str], rows: list[list[str]]) -> list[str]:
    """Drop empty columns at the end of lines: from the names, and from rows in place."""
    widths = set(map(len, rows))
    if len(widths) != 1:
        return names
    (width,) = widths
    while (
        width > 1
        and (width > len(names) or not names[width - 1])
        and not any(values[width - 1] for values in rows)
    ):
        width -= 1
    if width < len(names) and not any(names[width:]):
        names = names[:width]
    if width == len(names):
        for values in rows:
            del values[width:]
    return names


def _name_columns(path: Path, names: list[str]) -> list[str]:
    """Check the column names, and name unnamed columns as in pandas."""
    duplicates = [name for name, count in Counter(names).items() if count > 1 and name]
    if duplicates:
        raise ValueError(
            f"{path}, line 1: column names must be different; got {duplicates[0]!r} twice among "
            f"{excerpt(', '.join(names))}. Rename one."
        )
    columns: list[str] = []
    for column, name in enumerate(names):
        unnamed = f"Unnamed: {column}"
        columns.append(name or (f"{unnamed}.1" if unnamed in names else unnamed))
    return columns


def _describe_misfit(
    path: Path, line: int, names: list[str], values: list[str], dialect: dict[str, Any]
) -> str:
    """Describe a line with another number of fields than the first."""
    separator = dialect["delimiter"]
    hint = (
        f" Fields are separated by {_SEPARATOR_NAMES.get(separator, repr(separator))}, as in the "
        "first line;"
    )
    if dialect["quoting"] == csv.QUOTE_NONE:
        hint += " in .tsv a quote is an ordinary character (.csv allows quoted fields)."
    else:
        hint += " quote a text with a separator."
    expected = ", ".join(name or "without a name" for name in names)
    return (
        f"{path}, line {line} must have {len(names)} fields ({expected}); got {len(values)}: "
        f"{excerpt(separator.join(values))}.{hint}"
    )
