"""Tasks: rows from files, token ids from text, labels and scores."""

from fewer.tasks.classification import TextClassification, infer
from fewer.tasks.columns import DataWarning
from fewer.tasks.docstrings import DocstringData, docstring_data
from fewer.tasks.metrics import score
from fewer.tasks.qa_metrics import score_answers
from fewer.tasks.question_answering import (
    QuestionAnswering,
    infer_question_answering,
    is_question_answering,
)
from fewer.tasks.rows import data_hash, read_rows
from fewer.tasks.spans import Span, WindowLogits, best_spans
from fewer.tasks.squad import squad_rows
from fewer.tasks.tag_metrics import score_tags
from fewer.tasks.tagging import Tagging, infer_tagging, is_tagging
from fewer.tasks.texts import OverlongError, TruncationWarning, clean, encode_texts

__all__ = [
    "DataWarning",
    "DocstringData",
    "OverlongError",
    "QuestionAnswering",
    "Span",
    "Tagging",
    "TextClassification",
    "TruncationWarning",
    "WindowLogits",
    "best_spans",
    "clean",
    "data_hash",
    "docstring_data",
    "encode_texts",
    "infer",
    "infer_question_answering",
    "infer_tagging",
    "is_question_answering",
    "is_tagging",
    "read_rows",
    "score",
    "score_answers",
    "score_tags",
    "squad_rows",
]
