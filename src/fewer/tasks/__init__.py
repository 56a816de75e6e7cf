"""Tasks: rows from files, text to token ids, labels, and scores."""

from fewer.tasks.classification import TextClassification, infer
from fewer.tasks.docstrings import DocstringData, docstring_data
from fewer.tasks.metrics import score
from fewer.tasks.rows import data_hash, read_rows
from fewer.tasks.texts import OverlongError, TruncationWarning, clean, encode_texts

__all__ = [
    "DocstringData",
    "OverlongError",
    "TextClassification",
    "TruncationWarning",
    "clean",
    "data_hash",
    "docstring_data",
    "encode_texts",
    "infer",
    "read_rows",
    "score",
]
