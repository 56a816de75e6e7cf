"""Tasks: rows from files, text to token ids, labels, and scores."""

from fewer.tasks.classification import TextClassification, infer
from fewer.tasks.docstrings import DocstringData, docstring_data
from fewer.tasks.metrics import score
from fewer.tasks.rows import data_hash, read_rows
from fewer.tasks.tag_metrics import score_tags
from fewer.tasks.tagging import Tagging, infer_tagging, is_tagging
from fewer.tasks.texts import OverlongError, TruncationWarning, clean, encode_texts

__all__ = [
    "DocstringData",
    "OverlongError",
    "Tagging",
    "TextClassification",
    "TruncationWarning",
    "clean",
    "data_hash",
    "docstring_data",
    "encode_texts",
    "infer",
    "infer_tagging",
    "is_tagging",
    "read_rows",
    "score",
    "score_tags",
]
