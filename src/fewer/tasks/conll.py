"""CoNLL files of tagged words: one word per line, a blank line between sentences."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

Sentences = dict[str, list[list[str | None]]]
Word = tuple[str, str | None]

_DOCUMENT = "-DOCSTART-"
_WORD_ID = re.compile(r"\d+$")
_SKIPPED_ID = re.compile(r"\d+[-.]\d+$")  # word ranges ("3-4") and empty nodes ("3.1")
_CONLLU_COLUMNS = 10
_FORM, _UPOS = 1, 3
_UNSPECIFIED = "_"
# "# sent_id = 3", "#text=...", "# id 7f5a domain=en", "#begin document (a/b); part 000"
_METADATA = re.compile(r"#\s*\w[\w.:-]*(\s+\w+)*\s*=|#\s+id\s.*=|#(begin|end) document\b")


def read_conll(path: Path, text: str) -> Sentences:
    """Read .conll and .bio: the first column is the token, the last the tag.

    Columns are separated by tabs, or by blanks in a line without a tab; all lines have as many as
    the first that is not a comment. Lines of -DOCSTART- and comments are skipped: lines before the
    first word of a sentence with metadata ("# sent_id = 3"), or with "# " and another number of
    columns. Raises `ValueError` with the line number.
    """
    columns = _count_columns(text)

    def parse(number: int, line: str, first: bool) -> Word | None:
        fields = _split_fields(line)
        if _is_metadata(line, fields, columns):
            if first or line.startswith("#end"):
                return None
            raise ValueError(
                f"{path}, line {number}: a comment must precede the first word of a sentence; got "
                f"{line[:60]!r}. Put a blank line before it, or remove it."
            )
        if first and line.startswith("# ") and len(fields) != columns:
            return None
        if len(fields) != columns or columns < 2:
            layout = (
                f"{columns} columns as in the lines before" if columns > 1 else "a token, a tag"
            )
            raise ValueError(
                f"{path}, line {number} must have {layout}, separated by a tab or a blank; got "
                f"{len(fields)}: {line[:60]!r}. Correct it; CoNLL-U files end in .conllu."
            )
        return fields[0], fields[-1]

    return _parse_sentences(text, parse)


def _count_columns(text: str) -> int:
    """Count the columns of the first line that cannot be a comment, else of the first line."""
    lines = (line.rstrip(" \t\r") for line in text.split("\n"))
    candidates = [line for line in lines if line and not _is_document_start(line)]
    words = (line for line in candidates if not line.startswith("#"))
    odd_words = (line for line in candidates if not _METADATA.match(line))
    return len(_split_fields(next(chain(words, odd_words, candidates), "")))


def read_conllu(path: Path, text: str) -> Sentences:
    """Read .conllu: FORM and UPOS of each word; comments, word ranges and empty nodes are skipped.

    A UPOS of "_" (unspecified) becomes None. Raises `ValueError` with the line number.
    """

    def parse(number: int, line: str, first: bool) -> Word | None:
        if line.startswith("#"):
            return None
        fields = line.split("\t")
        if len(fields) == _CONLLU_COLUMNS and _WORD_ID.match(fields[0]):
            upos = fields[_UPOS]
            return fields[_FORM], None if upos == _UNSPECIFIED else upos
        if len(fields) == _CONLLU_COLUMNS and _SKIPPED_ID.match(fields[0]):
            return None
        raise ValueError(
            f"{path}, line {number} must have {_CONLLU_COLUMNS} columns separated by tabs, the "
            f"first a number; got {len(fields)}: {line[:60]!r}. Correct it; files with tokens and "
            "tags only end in .conll."
        )

    return _parse_sentences(text, parse)


def _is_document_start(line: str) -> bool:
    return line.lstrip(" ").startswith(_DOCUMENT)


def _split_fields(line: str) -> list[str]:
    return line.split("\t") if "\t" in line else re.split(" +", line.lstrip(" "))


def _is_metadata(line: str, fields: list[str], columns: int) -> bool:
    """Check whether a line is metadata, not a word "#" or "#tag" with its columns."""
    if not _METADATA.match(line):
        return False
    is_word = len(fields) == columns and ("\t" in line or "=" in fields[0])
    return not is_word


def _parse_sentences(text: str, parse: Callable[[int, str, bool], Word | None]) -> Sentences:
    """Collect the words of each sentence.

    `parse` gets the line number, the line, and whether no word of the sentence precedes it; it
    returns None for a line to skip.
    """
    sentences: Sentences = {"tokens": [], "tags": []}
    for lines in _split_blocks(text):
        words: list[Word] = []
        for number, line in lines:
            word = parse(number, line, not words)
            if word is not None:
                words.append(word)
        if words:
            sentences["tokens"].append([token for token, _ in words])
            sentences["tags"].append([tag for _, tag in words])
    return sentences


def _split_blocks(text: str) -> Iterator[list[tuple[int, str]]]:
    """Yield the lines between blank lines and lines of -DOCSTART-, numbered from 1."""
    block: list[tuple[int, str]] = []
    for number, line in enumerate(text.split("\n"), 1):  # splitlines() also splits at U+2028
        line = line.rstrip(" \t\r")
        if line and not _is_document_start(line):
            block.append((number, line))
        elif block:
            yield block
            block = []
    if block:
        yield block
