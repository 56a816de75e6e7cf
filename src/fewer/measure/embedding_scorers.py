"""Scores of embedding models: similarities of pairs, and the documents that queries find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn

from fewer._cached_property import cached_property
from fewer.measure.scorer import Batches, WindowScorer
from fewer.measure.text_scorer import TextScorer
from fewer.tasks.embedding import EmbeddingConfig
from fewer.tasks.text_windows import COLUMN, merge_windows

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["RetrievalScorer", "SimilarityScorer"]

FOUND = 100  # best documents of a query of which recall counts the relevant ones
CHUNK = 256  # queries that are compared with all documents at a time


@dataclass(frozen=True, kw_only=True)
class _EmbeddingScorer(WindowScorer):
    """Pools the states of an encoder without a head to one vector per text."""

    config: EmbeddingConfig = field(default_factory=EmbeddingConfig)

    def vectors(
        self,
        model: PreTrainedModel,
        encoded: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        batches: Batches,
        title: str,
    ) -> Tensor:
        """Return the vector of each text, whose dot product is the similarity."""
        from fewer.inference.embed import vectors_of

        pooling = self.config.pooling
        vectors = vectors_of(model, encoded, tokenizer, batches, pooling, title=title)
        owners = list(encoded[COLUMN])
        if len(set(owners)) < len(owners):
            vectors = merge_windows(vectors, owners, max(owners) + 1, self.overlong)
        return nn.functional.normalize(vectors) if self.config.similarity == "cosine" else vectors


@dataclass(frozen=True, kw_only=True)
class SimilarityScorer(_EmbeddingScorer, TextScorer):
    """Scores the similarity of each pair against its number; answers are similarities (pairs)."""

    regression: bool = True

    def texts(self, encoded: Dataset) -> list[int]:
        """Return the pair of each row: all first texts come before the second ones."""
        return [text % len(self.labels) for text in encoded[COLUMN]]

    def read(
        self,
        model: PreTrainedModel,
        encoded: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        batches: Batches,
        title: str,
    ) -> Tensor:
        """Return the similarity of the two vectors of each pair."""
        vectors = self.vectors(model, encoded, tokenizer, batches, title)
        first, second = vectors.chunk(2)
        similarities: Tensor = (first * second).sum(1)
        return similarities

    def score(self, answers: Tensor, rows: Sequence[int] | None = None) -> dict[str, float]:
        """Return the correlations: Spearman's first, by which embedding models are compared."""
        scores = super().score(answers, rows)
        return {name: scores[name] for name in ("spearman", "pearson")}


@dataclass(frozen=True, kw_only=True)
class RetrievalScorer(_EmbeddingScorer):
    """Scores what each query finds among all documents.

    The answer to a query is a dictionary of documents with their similarities, the most similar
    first: the best 100, then the relevant ones that are not among them. It is another answer where
    another document is the most similar.
    """

    queries: Sequence[int]  # of each row, from 0 in order of appearance
    documents: Sequence[int]  # of each row, among the different ones
    relevance: Sequence[float]  # of each row's document to its query

    def texts(self, encoded: Dataset) -> list[int]:
        """Return the query of each row; a document belongs to the first query that names it."""
        count = max(self.queries) + 1
        owners = dict(zip(reversed(self.documents), reversed(self.queries), strict=True))
        return [text if text < count else owners[text - count] for text in encoded[COLUMN]]

    def read(
        self,
        model: PreTrainedModel,
        encoded: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        batches: Batches,
        title: str,
    ) -> list[dict[int, float]]:
        """Find the best documents of each query."""
        vectors = self.vectors(model, encoded, tokenizer, batches, title)
        count = max(self.queries) + 1
        documents = vectors[count:]
        answers = []
        for start in range(0, count, CHUNK):
            similarities = vectors[start : min(start + CHUNK, count)] @ documents.T
            best = similarities.topk(min(FOUND, len(documents))).indices.tolist()
            for query, (row, numbers) in enumerate(zip(similarities, best, strict=True), start):
                missed = [document for document in self._grades[query] if document not in numbers]
                listed = [*numbers, *missed]
                answers.append(dict(zip(listed, row[listed].tolist(), strict=True)))
        return answers

    def score(
        self, answers: Sequence[dict[int, float]], rows: Sequence[int] | None = None
    ) -> dict[str, float]:
        """Return nDCG@10, MRR@10 and recall@100, over the queries with a relevant document."""
        from fewer.tasks.rank_metrics import score_rankings

        drawn = range(len(self._grades)) if rows is None else rows
        metrics = score_rankings(*self._rankings(answers, drawn))
        del metrics["map"]  # which wants the ranks of all documents
        return {**metrics, f"recall@{FOUND}": self._recall(answers, drawn)}

    def each(self, answers: Sequence[dict[int, float]]) -> Tensor:
        """Return nDCG@10 of each query, NaN for one without a relevant document."""
        from fewer.tasks.rank_metrics import ndcg_of_each

        rankings = self._rankings(answers, range(len(self._grades)))
        return torch.from_numpy(ndcg_of_each(*rankings))

    def differs(
        self, answers: Sequence[dict[int, float]], reference: Sequence[dict[int, float]]
    ) -> Tensor:
        """Return which queries find another document first."""
        pairs = zip(answers, reference, strict=True)
        return torch.tensor([_first(answer) != _first(old) for answer, old in pairs])

    def changed(
        self, answers: Sequence[dict[int, float]], reference: Sequence[dict[int, float]]
    ) -> float:
        """Return the share of answers that differ."""
        return float(self.differs(answers, reference).double().mean())

    def remark(self, answers: Sequence[dict[int, float]]) -> str:
        """Report that every query finds the same document first."""
        if len(answers) < 2 or len(set(map(_first, answers))) > 1:
            return ""
        return "every query finds the same document first"

    def _rankings(
        self, answers: Sequence[dict[int, float]], queries: Sequence[int]
    ) -> tuple[list[float], list[float], list[int]]:
        """Return scores, relevance and queries, numbered anew, of the documents in the answers."""
        scores = [score for query in queries for score in answers[query].values()]
        grades = [
            self._grades[query].get(document, 0.0)
            for query in queries
            for document in answers[query]
        ]
        numbers = [number for number, query in enumerate(queries) for _ in answers[query]]
        return scores, grades, numbers

    def _recall(self, answers: Sequence[dict[int, float]], queries: Sequence[int]) -> float:
        """Return the share of a query's relevant documents among its best 100, the mean of all."""
        shares = []
        for query in queries:
            relevant = {number for number, grade in self._grades[query].items() if grade > 0}
            if relevant:
                best = set(list(answers[query])[:FOUND])
                shares.append(len(relevant & best) / len(relevant))
        return sum(shares) / max(len(shares), 1)

    @cached_property
    def _grades(self) -> list[dict[int, float]]:
        """The relevance of the documents that the rows name, of each query; the highest counts."""
        grades: list[dict[int, float]] = [{} for _ in range(max(self.queries) + 1)]
        for query, document, grade in zip(
            self.queries, self.documents, self.relevance, strict=True
        ):
            grades[query][document] = max(grade, grades[query].get(document, 0.0))
        return grades


def _first(answer: dict[int, float]) -> int:
    return next(iter(answer))
