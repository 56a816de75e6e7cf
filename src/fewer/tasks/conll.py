"""Sentences of tagged words from CoNLL files: a word a line, a blank line between sentences."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

Sentences = dict[str, list[list[str]]]

_DOCUMENT = "-DOCSTART-"
_WORD_ID = re.compile(r"\d+$")
_SKIPPED_ID = re.compile(r"\d+[-.]\d+$")  # "3-4" spells two words as one, "3.1" stands in no text
_CONLLU_COLUMNS = 10
_FORM, _UPOS = 1, 3


def read_conll(path: Path, text: str) -> Sentences:
    """Read .conll and .bio: the first column is the token, the last the tag.

    Columns are separated by tabs, or by blanks in a line without a tab; each line has as many as
    the first. Lines of -DOCSTART- are skipped. Raises `ValueError` that names the line.
    """
    columns = 0

    def word(number: int, line: str) -> tuple[str, str] | None:
        nonlocal columns
        fields = line.split("\t") if "\t" in line else re.split(" +", line.lstrip(" "))
        if fields[0] == _DOCUMENT:
            return None
        columns = columns or len(fields)
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


def read_conllu(path: Path, text: str) -> Sentences:
    """Read .conllu: FORM and UPOS of each word; comments, word ranges and empty nodes are skipped.

    Raises `ValueError` that names the line.
    """

    def word(number: int, line: str) -> tuple[str, str] | None:
        if line.startswith("#"):
            return None
        fields = line.split("\t")
        if len(fields) == _CONLLU_COLUMNS and _WORD_ID.match(fields[0]):
            return fields[_FORM], fields[_UPOS]
        if len(fields) == _CONLLU_COLUMNS and _SKIPPED_ID.match(fields[0]):
            return None
        raise ValueError(
            f"{path}, line {number}: wanted {_CONLLU_COLUMNS} columns separated by tabs, the first "
            f"a number, got {len(fields)}: {line[:60]!r}. Mend the line; a file of tokens and tags "
            "only ends in .conll."
        )

    return _read(text, word)


def _read(text: str, word: Callable[[int, str], tuple[str, str] | None]) -> Sentences:
    """Collect the words of each sentence; `word` reads a line, and gives None for one to skip."""
    sentences: Sentences = {"tokens": [], "tags": []}
    for lines in _blocks(text):
        words = [found for number, line in lines if (found := word(number, line)) is not None]
        if words:
            sentences["tokens"].append([token for token, _ in words])
            sentences["tags"].append([tag for _, tag in words])
    return sentences


def _blocks(text: str) -> Iterator[list[tuple[int, str]]]:
    """Give the lines between blank lines, numbered from 1."""
    block: list[tuple[int, str]] = []
    for number, line in enumerate(text.split("\n"), 1):  # splitlines() also splits at U+2028
        line = line.rstrip(" \t\r")
        if line:
            block.append((number, line))
        elif block:
            yield block
            block = []
    if block:
        yield block
