"""Reranking: documents of a query, each with its relevance.

A row holds a query, a document and a number: 0 for a document that is not relevant, more for one
that is. The rows of a query belong together, by the column `query_id` or by equal text. The model
reads both texts and has one logit. As `CrossEncoder` of sentence-transformers does by default, it
learns by the binary cross entropy of that logit, also against labels between 0 and 1; grades above
1 are learned by the mean squared error (`MSELoss` there). Each pair is a row of its own: pointwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fewer.tasks.classification import encode_columns, parse_number
from fewer.tasks.columns import (
    check_has_rows,
    column_values,
    known_column,
    list_names,
    usual_column,
)
from fewer.tasks.label_values import is_number
from fewer.tasks.text_windows import LongTexts

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

__all__ = ["Reranking", "infer_reranking", "is_reranking"]

QUERY_COLUMNS = ("query", "question")
DOCUMENT_COLUMNS = ("document", "passage", "doc", "text", "answer")
RELEVANCE_COLUMNS = ("relevance", "relevance_label", "label", "labels", "score", "rating")
QUERY_IDS = ("query_id", "qid")
NAME = "relevance"  # of the logit


@dataclass(frozen=True, kw_only=True)
class Reranking:
    """A task of reranking: its columns, and whether relevance has grades above 1.

    >>> Reranking().num_labels, Reranking().problem_type, Reranking(graded=True).problem_type
    (1, 'multi_label_classification', 'regression')
    """

    head: ClassVar[str] = "SequenceClassification"
    num_labels: ClassVar[int] = 1

    query: str = "query"
    document: str = "document"
    label: str = "label"
    query_id: str | None = None  # None: rows with the same text of the query belong together
    graded: bool = False

    @property
    def id2label(self) -> dict[int, str]:
        """Name of the logit."""
        return {0: NAME}

    @property
    def label2id(self) -> dict[str, int]:
        """Output of each name."""
        return {NAME: 0}

    @property
    def problem_type(self) -> str:
        """Problem type of the Hugging Face config: with its loss of one logit."""
        return "regression" if self.graded else "multi_label_classification"

    def encode(
        self,
        rows: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        overlong: LongTexts = "truncate",
        training: bool = True,
    ) -> Dataset:
        """Encode pairs of query and document: one row per pair, in the same order.

        Columns: those of `encode_texts`, and for training labels, one float in a list.
        """
        labels = [[value] for value in self._targets(rows)] if training else None
        columns = (self.query, self.document)
        return encode_columns(rows, columns, labels, tokenizer, max_length, overlong)

    def relevance(self, rows: Dataset) -> list[float]:
        """Return the relevance of each row.

        Raises `ValueError` with the row of one that is missing, NaN, negative or no number.
        """
        values = [
            parse_number(value, row, self.label)
            for row, value in enumerate(column_values(rows, self.label))
        ]
        for row, value in enumerate(values):
            if value < 0:
                raise ValueError(
                    f"column {self.label!r}, row {row} (the first is 0), must be 0 (not relevant) "
                    f"or more; got {value:g}. Shift the grades, or correct the row."
                )
        return values

    def queries(self, rows: Dataset) -> list[int]:
        """Return the number of the query of each row, from 0 in order of appearance."""
        column = self.query if self.query_id is None else self.query_id
        numbers: dict[object, int] = {}
        queries = []
        for row, value in enumerate(column_values(rows, column)):
            if value is None or value != value:  # NaN differs from itself
                raise ValueError(
                    f"column {column!r}, row {row} (the first is 0): the query must not be "
                    f"missing; got {value}. Correct or remove the row."
                )
            queries.append(numbers.setdefault(value, len(numbers)))
        return queries

    def lists(self, rows: Dataset) -> tuple[list[str], list[list[str]]]:
        """Return the queries in order of appearance, and the documents of each."""
        queries: list[str] = []
        documents: list[list[str]] = []
        values = (column_values(rows, column) for column in (self.query, self.document))
        for number, query, document in zip(self.queries(rows), *values, strict=True):
            if number == len(queries):
                queries.append(query)
                documents.append([])
            documents[number].append(document)
        return queries, documents

    def _targets(self, rows: Dataset) -> list[float]:
        """Return the relevance for training: a model of binary relevance takes none above 1."""
        values = self.relevance(rows)
        row = next((row for row, value in enumerate(values) if value > 1), None)
        if row is not None and not self.graded:
            raise ValueError(
                f"column {self.label!r}, row {row} (the first is 0), must be from 0 to 1 for a "
                f"model of binary relevance; got {values[row]:g}. Divide the grades by the "
                "highest, or train a model without a head."
            )
        return values


def is_reranking(rows: Dataset) -> bool:
    """Check for a query, a document and a number in each row.

    They are a column `query`, one of the usual names of documents, and numbers; with a column
    `query_id` a `question` is a query too.
    """
    columns = {name.lower() for name in rows.column_names}
    queries = QUERY_COLUMNS if columns & set(QUERY_IDS) else QUERY_COLUMNS[:1]
    relevance = usual_column(rows, RELEVANCE_COLUMNS)
    if not columns & set(queries) or not columns & set(DOCUMENT_COLUMNS) or relevance is None:
        return False
    values = [value for value in column_values(rows, relevance) if value is not None]
    return bool(values) and all(
        is_number(value) if isinstance(value, str) else isinstance(value, int | float)
        for value in values
    )


def infer_reranking(
    rows: Dataset,
    *,
    query: str | None = None,
    document: str | None = None,
    label: str | None = None,
    query_id: str | None = None,
    graded: bool | None = None,
) -> Reranking:
    """Guess the task of rows with queries and documents; arguments that are set are not guessed.

    Columns: the usual names in any case. `graded`: whether a label is above 1.
    """
    check_has_rows(rows)
    task = Reranking(
        query=_known(rows, query, QUERY_COLUMNS, "query"),
        document=_known(rows, document, DOCUMENT_COLUMNS, "document"),
        label=_known(rows, label, RELEVANCE_COLUMNS, "label"),
        query_id=usual_column(rows, QUERY_IDS)
        if query_id is None
        else known_column(query_id, rows),
    )
    is_graded = max(task.relevance(rows)) > 1 if graded is None else graded
    return Reranking(
        query=task.query,
        document=task.document,
        label=task.label,
        query_id=task.query_id,
        graded=is_graded,
    )


def _known(rows: Dataset, column: str | None, names: tuple[str, ...], argument: str) -> str:
    """Return a column that is named or has one of the usual names."""
    if column is not None:
        return known_column(column, rows)
    usual = usual_column(rows, names)
    if usual is None:
        raise ValueError(
            f"{argument} must be the name of a column; got the columns "
            f"{list_names(rows.column_names)}, none of {list_names(names)}. Set {argument}='...', "
            f"or --column {argument}=NAME."
        )
    return usual
