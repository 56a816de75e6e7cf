"""Tasks: rows from files, token ids from text, labels and scores."""

from fewer.tasks.classification import TextClassification, infer
from fewer.tasks.columns import DataWarning
from fewer.tasks.docstrings import DocstringData, docstring_data
from fewer.tasks.metrics import score, score_labels
from fewer.tasks.multi_label import MultiLabel, infer_multi_label, is_multi_label
from fewer.tasks.qa_metrics import score_answers
from fewer.tasks.question_answering import (
    QuestionAnswering,
    infer_question_answering,
    is_question_answering,
)
from fewer.tasks.rank_metrics import score_rankings
from fewer.tasks.reranking import Reranking, infer_reranking, is_reranking
from fewer.tasks.rows import data_hash, read_rows
from fewer.tasks.spans import Span, WindowLogits, best_spans
from fewer.tasks.squad import squad_rows
from fewer.tasks.tag_metrics import score_tags
from fewer.tasks.tagging import Tagging, infer_tagging, is_tagging
from fewer.tasks.texts import OverlongError, TruncationWarning, clean, encode_texts

__all__ = [
    "DataWarning",
    "DocstringData",
    "MultiLabel",
    "OverlongError",
    "QuestionAnswering",
    "Reranking",
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
    "infer_multi_label",
    "infer_question_answering",
    "infer_reranking",
    "infer_tagging",
    "is_multi_label",
    "is_question_answering",
    "is_reranking",
    "is_tagging",
    "read_rows",
    "score",
    "score_answers",
    "score_labels",
    "score_rankings",
    "score_tags",
    "squad_rows",
]
