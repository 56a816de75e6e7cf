"""Tasks of embedding models, which read each text alone: similarity of pairs, and retrieval.

Their rows are those of regression on pairs (`sentence1`, `sentence2`, `score`) and of reranking
(`query`, `document`, `relevance`). Rows without relevance hold a query and a document that is
relevant to it. Embedding models are measured by these tasks; sentence-transformers trains them.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast, get_args

from fewer._validation.names import check_known
from fewer.tasks.classification import TextClassification, encode_columns, infer, read_strings
from fewer.tasks.columns import check_has_rows, known_column, list_names, usual_column
from fewer.tasks.reranking import (
    DOCUMENT_COLUMNS,
    QUERY_COLUMNS,
    QUERY_IDS,
    RELEVANCE_COLUMNS,
    Reranking,
)
from fewer.tasks.text_windows import COLUMN, LongTexts

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "EmbeddingConfig",
    "Pooling",
    "Retrieval",
    "Similarity",
    "check_pooling",
    "infer_embedding",
]

Pooling = Literal["mean", "cls", "last", "max"]
KINDS = ("query", "document", "default")  # of texts that have a prompt
ANCHORS, POSITIVES = (*QUERY_COLUMNS, "anchor"), (*DOCUMENT_COLUMNS, "positive")


def check_pooling(name: str) -> Pooling:
    """Return the name of a pooling. Raises `ValueError` for an unknown one."""
    check_known(name, sorted(get_args(Pooling)), "pooling")
    return cast("Pooling", name)


@dataclass(frozen=True, kw_only=True)
class EmbeddingConfig:
    """How a model's vectors are made and compared."""

    pooling: Pooling = "mean"
    similarity: Literal["cosine", "dot"] = "cosine"
    prompts: Mapping[str, str] = field(default_factory=dict)  # by the kind of text, of `KINDS`
    lower_case: bool = False  # whether texts are made lower-case before

    def prompted(self, texts: list[str], kind: str = "default") -> list[str]:
        """Put the prompt of a kind of texts before each."""
        prompt = self.prompts.get(kind, "")
        texts = [prompt + text for text in texts] if prompt else texts
        return [text.lower() for text in texts] if self.lower_case else texts


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """Pairs with a number, as in STS-B: the similarity of their vectors is to order them so."""

    prompted: ClassVar[tuple[str, ...]] = ("default",)  # kinds of its texts

    pairs: TextClassification  # the columns
    config: EmbeddingConfig = field(default_factory=EmbeddingConfig)

    def labels(self, rows: Dataset) -> list[float]:
        """Return the number of each pair. Raises `ValueError` for one that is missing or none."""
        return list(map(float, self.pairs.labels(rows)))

    def encode(
        self,
        rows: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        overlong: LongTexts = "truncate",
        training: bool = False,
    ) -> Dataset:
        """Encode the first texts of all pairs, then the second ones: a row each, or its windows.

        The column `text` holds the number of the text, up to twice the pairs.
        """
        texts = [text for name in self._columns for text in read_strings(rows, name)]
        return _encode(self.config.prompted(texts), tokenizer, max_length, overlong)

    @property
    def _columns(self) -> tuple[str, str]:
        return self.pairs.text, str(self.pairs.text_pair)


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Queries that are to find their relevant documents among the documents of all rows."""

    prompted: ClassVar[tuple[str, ...]] = ("query", "document")  # kinds of its texts

    pairs: Reranking  # the columns
    has_relevance: bool = True  # else the document of each row is relevant to its query
    config: EmbeddingConfig = field(default_factory=EmbeddingConfig)

    def relevance(self, rows: Dataset) -> list[float]:
        """Return the relevance of each row's document to its query."""
        return self.pairs.relevance(rows) if self.has_relevance else [1.0] * len(rows)

    def numbers(self, rows: Dataset) -> tuple[list[int], list[int]]:
        """Return the number of each row's query, and that of its document among different ones."""
        documents: dict[str, int] = {}
        texts = read_strings(rows, self.pairs.document)
        return self.pairs.queries(rows), [
            documents.setdefault(text, len(documents)) for text in texts
        ]

    def encode(
        self,
        rows: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        overlong: LongTexts = "truncate",
        training: bool = False,
    ) -> Dataset:
        """Encode the different queries, then the different documents: a row each, or its windows.

        The column `text` holds the number of the text; documents come after the queries.
        """
        queries: dict[int, str] = {}
        for number, text in zip(self.pairs.queries(rows), self._read(rows, "query"), strict=True):
            if queries.setdefault(number, text) != text:
                raise ValueError(
                    f"column {self.pairs.query!r} must have one text for each query; got "
                    f"{text[:40]!r} and {queries[number][:40]!r} with the same id."
                )
        documents = list(dict.fromkeys(self._read(rows, "document")))
        texts = self.config.prompted(list(queries.values()), "query")
        texts = [*texts, *self.config.prompted(documents, "document")]
        return _encode(texts, tokenizer, max_length, overlong)

    def _read(self, rows: Dataset, role: str) -> list[str]:
        return read_strings(rows, getattr(self.pairs, role))


def infer_embedding(
    rows: Dataset, config: EmbeddingConfig | None = None, **columns: str
) -> Similarity | Retrieval:
    """Guess the task of rows for an embedding model; named columns, by role, are not guessed.

    Queries with documents, by the usual names of both columns (`anchor` and `positive` too), are
    retrieval; two texts with a number are similarity. Raises `ValueError` for other rows.
    """
    check_has_rows(rows)
    config = EmbeddingConfig() if config is None else config
    named = set(columns)
    query = columns.get("query") or usual_column(rows, ANCHORS)
    document = columns.get("document") or usual_column(rows, POSITIVES)
    if query and document and not named & {"text", "text_pair"}:
        _check_roles(named, {"query", "document", "query_id", "label"})
        return _retrieval(rows, query, document, columns, config)
    _check_roles(named, {"text", "text_pair", "label"})
    pairs = infer(rows, regression=True, **columns)
    if pairs.text_pair is None:
        raise ValueError(
            "rows must hold two texts and a number, or queries and documents, for an embedding "
            f"model; got the columns {list_names(rows.column_names)}. Name them: --column "
            "text=NAME --column text_pair=NAME, or --column query=NAME --column document=NAME."
        )
    return Similarity(pairs=pairs, config=config)


def _check_roles(named: Set[str], roles: Set[str]) -> None:
    """Raise `ValueError` for columns named by other roles than these rows have."""
    if unknown := named - roles:
        raise ValueError(
            f"columns of these rows must be named as {list_names(sorted(roles))} for an embedding "
            f"model; got {list_names(sorted(unknown))}. Leave them out."
        )


def _retrieval(
    rows: Dataset, query: str, document: str, columns: Mapping[str, str], config: EmbeddingConfig
) -> Retrieval:
    label = columns.get("label") or usual_column(rows, RELEVANCE_COLUMNS)
    query_id = columns.get("query_id") or usual_column(rows, QUERY_IDS)
    names = {"query": query, "document": document, "query_id": query_id, "label": label}
    columns_by_role: dict[str, Any] = {
        role: known_column(name, rows) for role, name in names.items() if name
    }
    return Retrieval(
        pairs=Reranking(**columns_by_role), has_relevance=label is not None, config=config
    )


def _encode(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int, overlong: LongTexts
) -> Dataset:
    from datasets import Dataset

    rows = Dataset.from_dict({"texts": texts})
    encoded = encode_columns(rows, ("texts", None), None, tokenizer, max_length, overlong)
    if COLUMN in encoded.column_names:
        return encoded
    return encoded.add_column(COLUMN, list(range(len(texts))))
