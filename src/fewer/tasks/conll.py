"""Sentences of tagged words from CoNLL files: one word per line, a blank line between sentences."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

Sentences = dict[str, list[list[str | None]]]
Word = tuple[str, str | None]

_DOCUMENT = "-DOCSTART-"
_WORD_ID = re.compile(r"\d+$")
_SKIPPED_ID = re.compile(r"\d+[-.]\d+$")  # "3-4" spells two words as one, "3.1" stands in no text
_CONLLU_COLUMNS = 10
_FORM, _UPOS = 1, 3
_UNSPECIFIED = "_"
# "# sent_id = 3", "#text=...", "# id 7f5a domain=en", "#begin document (a/b); part 000"
_METADATA = re.compile(r"#\s*\w[\w.:-]*(\s+\w+)*\s*=|#\s+id\s.*=|#(begin|end) document\b")


def read_conll(path: Path, text: str) -> Sentences:
    """Read .conll and .bio: the first column is the token, the last the tag.

    Columns are separated by tabs, or by blanks in a line without a tab; each line has as many as
    the first that is not a comment. Skipped are lines of -DOCSTART- and comments: lines at the head
    of a sentence that hold metadata ("# sent_id = 3"), or that begin with "# " and have another
    number of columns. Raises `ValueError` that names the line.
    """
    columns = _count_columns(text)

    def word(number: int, line: str, first: bool) -> Word | None:
        fields = _fields(line)
        if _is_metadata(line, fields, columns):
            if first or line.startswith("#end"):
                return None
            raise ValueError(
                f"{path}, line {number}: a comment must stand before the first word of a sentence; "
                f"got {line[:60]!r}. Put a blank line before it, or remove it."
            )
        if first and line.startswith("# ") and len(fields) != columns:
            return None
        if len(fields) != columns or columns < 2:
            wanted = (
                f"{columns} columns as in the lines before" if columns > 1 else "a token, a tag"
            )
            raise ValueError(
                f"{path}, line {number}: wanted {wanted}, separated by a tab or a blank, got "
                f"{len(fields)}: {line[:60]!r}. Mend the line; a file of CoNLL-U ends in .conllu."
            )
        return fields[0], fields[-1]

    return _read(text, word)


def _count_columns(text: str) -> int:
    """Count the columns of the first line that is surely no comment, else of the first one."""
    lines = (line.rstrip(" \t\r") for line in text.split("\n"))
    candidates = [line for line in lines if line and not _begins_document(line)]
    words = (line for line in candidates if not line.startswith("#"))
    odd_words = (line for line in candidates if not _METADATA.match(line))
    return len(_fields(next(chain(words, odd_words, candidates), "")))


def read_conllu(path: Path, text: str) -> Sentences:
    """Read .conllu: FORM and UPOS of each word; comments, word ranges and empty nodes are skipped.

    A UPOS of "_" is not specified: None. Raises `ValueError` that names the line.
    """

    def word(number: int, line: str, first: bool) -> Word | None:
        if line.startswith("#"):
            return None
        fields = line.split("\t")
        if len(fields) == _CONLLU_COLUMNS and _WORD_ID.match(fields[0]):
            upos = fields[_UPOS]
            return fields[_FORM], None if upos == _UNSPECIFIED else upos
        if len(fields) == _CONLLU_COLUMNS and _SKIPPED_ID.match(fields[0]):
            return None
        raise ValueError(
            f"{path}, line {number}: wanted {_CONLLU_COLUMNS} columns separated by tabs, the first "
            f"a number, got {len(fields)}: {line[:60]!r}. Mend the line; a file of tokens and tags "
            "only ends in .conll."
        )

    return _read(text, word)


def _begins_document(line: str) -> bool:
    return line.lstrip(" ").startswith(_DOCUMENT)


def _fields(line: str) -> list[str]:
    return line.split("\t") if "\t" in line else re.split(" +", line.lstrip(" "))


def _is_metadata(line: str, fields: list[str], columns: int) -> bool:
    """Tell metadata from a word "#" or "#tag", which a tab after it makes certain."""
    if not _METADATA.match(line):
        return False
    is_word = len(fields) == columns and ("\t" in line or "=" in fields[0])
    return not is_word


def _read(text: str, word: Callable[[int, str, bool], Word | None]) -> Sentences:
    """Collect the words of each sentence.

    `word` reads a line, is told whether it stands before all words, and gives None for one to skip.
    """
    sentences: Sentences = {"tokens": [], "tags": []}
    for lines in _blocks(text):
        words: list[Word] = []
        for number, line in lines:
            value = word(number, line, not words)
            if value is not None:
                words.append(value)
        if words:
            sentences["tokens"].append([token for token, _ in words])
            sentences["tags"].append([tag for _, tag in words])
    return sentences


def _blocks(text: str) -> Iterator[list[tuple[int, str]]]:
    """Give the lines between blank lines and lines of -DOCSTART-, numbered from 1."""
    block: list[tuple[int, str]] = []
    for number, line in enumerate(text.split("\n"), 1):  # splitlines() also splits at U+2028
        line = line.rstrip(" \t\r")
        if line and not _begins_document(line):
            block.append((number, line))
        elif block:
            yield block
            block = []
    if block:
        yield block
