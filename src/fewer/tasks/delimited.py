"""Columns of comma- or tab-separated text, as spreadsheets, pandas and GLUE write it.

| what is found | what is done |
|---|---|
| in the names no separator of the kind, but `;`, a tab, a comma or `|` | that one separates |
| a first line `sep=;`, as Excel writes it | its separator is taken, the line skipped |
| blanks around names | dropped; where a name has one in front, also those in front of values |
| a column without a name | called as pandas calls it, "Unnamed: 0" |
| a separator at the end of lines, with nothing behind it | dropped |
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

_MOST_CSV_CHARS = 2**31 - 1
_EXCEL = re.compile(r'"?sep=(.)"?\r?\n')
_HEADER_CHARS = 100_000
_SEPARATORS = ",;\t|"
_SHOWN = {"\t": "a tab", ",": "a comma", ";": "';'", "|": "'|'"}


def read_delimited(
    path: Path, text: str, *, delimiter: str, quoting: int
) -> tuple[Columns, list[str]]:
    """Read the columns, values as text, and for each row where it begins ("line 2").

    Raises `ValueError` that names the line of a row with too many or too few fields.
    """
    skipped = 0
    separator = delimiter
    if excel := _EXCEL.match(text):
        separator, skipped = excel[1], 1
        text = text[excel.end() :]
    elif len(_first_fields(text, delimiter, quoting)) < 2:
        separator = _sniffed(text) or delimiter
    how: dict[str, Any] = {"delimiter": separator, "strict": True}
    how["quoting"] = quoting if separator == delimiter else csv.QUOTE_MINIMAL
    names = _first_fields(text, separator, how["quoting"])
    how["skipinitialspace"] = any(name != name.lstrip(" ") for name in names[1:])
    rows = list(_rows(path, text, how))  # to its end, or the limit stays raised
    if not rows:
        return {}, []
    names = [name.strip() for name in rows.pop(0)[1]]
    if len(names) > 1:
        rows = [(line, values) for line, values in rows if len(values) > 1 or values[0].strip()]
    names = _without_ends(names, [values for _, values in rows])
    for line, values in rows:
        if len(values) != len(names):
            raise ValueError(_misfit(path, line + skipped, names, values, how))
    columns = [list(column) for column in zip(*(values for _, values in rows), strict=True)]
    named = dict(zip(_header(path, names), columns, strict=False))
    return named, [f"line {line + skipped}" for line, _ in rows]


def _first_fields(text: str, delimiter: str, quoting: int) -> list[str]:
    """Split the first line that is not blank."""
    how: Any = {"delimiter": delimiter, "quoting": quoting}  # stubs want literals
    return next(filter(None, csv.reader(io.StringIO(text[:_HEADER_CHARS], newline=""), **how)), [])


def _sniffed(text: str) -> str | None:
    """Guess the separator from the names; None if there is but one name."""
    line = text[:_HEADER_CHARS].lstrip("\r\n").partition("\n")[0]
    try:
        separator = csv.Sniffer().sniff(line, _SEPARATORS).delimiter
    except csv.Error:
        return None
    return separator if len(_first_fields(line, separator, csv.QUOTE_MINIMAL)) > 1 else None


def _rows(path: Path, text: str, how: dict[str, Any]) -> Iterator[tuple[int, list[str]]]:
    """Give the rows that are not blank, each with the line on which it begins."""
    # 131,072 characters a field is the default; the setting is global, so it is put back
    limit = csv.field_size_limit(_MOST_CSV_CHARS)
    lines = csv.reader(io.StringIO(text, newline=""), **how)
    line = 1
    try:
        for values in lines:
            if values:
                yield line, values
            line = lines.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{path}, row that begins on line {line}: {error} (an opening or closing quote amiss?)"
        ) from None
    finally:
        csv.field_size_limit(limit)


def _without_ends(names: list[str], rows: list[list[str]]) -> list[str]:
    """Drop what a separator at the end of lines makes: from the names here, from rows in place."""
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


def _header(path: Path, names: list[str]) -> list[str]:
    """Check the column names, and name those that have none as pandas does."""
    twice = [name for name, times in Counter(names).items() if times > 1 and name]
    if twice:
        raise ValueError(
            f"{path}, line 1: column names must be different; got {twice[0]!r} twice among "
            f"{excerpt(', '.join(names))}. Rename one."
        )
    found: list[str] = []
    for column, name in enumerate(names):
        unnamed = f"Unnamed: {column}"
        found.append(name or (f"{unnamed}.1" if unnamed in names else unnamed))
    return found


def _misfit(path: Path, line: int, names: list[str], values: list[str], how: dict[str, Any]) -> str:
    """Say which line has another number of fields than the first."""
    separator = how["delimiter"]
    hint = (
        f" Fields are separated by {_SHOWN.get(separator, repr(separator))}, as in the first line;"
    )
    if how["quoting"] == csv.QUOTE_NONE:
        hint += " in .tsv a quote is an ordinary character (a .csv may have quoted fields)."
    else:
        hint += " quote a text that holds one."
    wanted = ", ".join(name or "without a name" for name in names)
    return (
        f"{path}, line {line}: wanted {len(names)} fields ({wanted}), got {len(values)}: "
        f"{excerpt(separator.join(values))}.{hint}"
    )
