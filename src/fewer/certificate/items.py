"""Texts that a model is calibrated on: how a task encodes them, and compares answers."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from fewer._validation.settings import validate
from fewer._validation.types import Count
from fewer.core.cost import Task
from fewer.hf.attach import attachment
from fewer.hf.max_length import resolve_max_length
from fewer.inference.answer import STRIDE, encode_questions
from fewer.measure.scorers import (
    MultiLabelScorer,
    RankingScorer,
    Scorer,
    SpanScorer,
    TagScorer,
    TextScorer,
)
from fewer.tasks.rows import data_hash
from fewer.tasks.texts import TruncationWarning, encode_texts, listed
from fewer.tasks.words import encode_sentences

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Items", "label_names", "list_items"]


@dataclass(frozen=True)
class Items:
    """Texts, pairs of texts, sentences as lists of words, questions with contexts, or rankings.

    A ranking is a query with the list of its documents.
    """

    task: Task
    labels: Sequence[str]  # names of the model's
    texts: Sequence[Any]
    pairs: Sequence[Any] | None  # of rankings the list of each query's documents
    max_length: int
    top_k: int = 1  # documents of a query that are wanted

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def are_rankings(self) -> bool:
        """Whether each text is a query with a list of documents."""
        return any(not isinstance(pair, str) for pair in (self.pairs or ())[:1])

    def select(self, numbers: Sequence[int]) -> Items:
        """Keep these texts."""
        texts = [self.texts[number] for number in numbers]
        pairs = None if self.pairs is None else [self.pairs[number] for number in numbers]
        return replace(self, texts=texts, pairs=pairs)

    def list_pairs(self) -> tuple[list[Any], list[str] | None]:
        """Return the texts and their pairs, of a ranking a pair for each document."""
        if self.pairs is None:
            return list(self.texts), None
        if not self.are_rankings:
            return list(self.texts), list(self.pairs)
        queries = [self.texts[number] for number in self._queries()]
        return queries, list(chain(*self.pairs))

    def encode(self, tokenizer: PreTrainedTokenizerBase, *, warn: bool = True) -> Dataset:
        """Encode the texts; one that is cut is told of, if asked."""
        with warnings.catch_warnings():
            if not warn:
                warnings.simplefilter("ignore", TruncationWarning)
            texts, pairs = self.list_pairs()
            if self.task is Task.SPAN:
                return encode_questions(
                    texts, pairs or [], tokenizer, max_length=self.max_length, stride=STRIDE
                )
            if self.task is Task.TOKEN:
                return encode_sentences(texts, tokenizer, max_length=self.max_length)
            return encode_texts(texts, tokenizer, pairs=pairs, max_length=self.max_length)

    def make_scorer(self) -> Scorer:
        """Return what computes the answers to the texts, and tells which differ."""
        if self.task is Task.SPAN:
            return SpanScorer(self._question_rows())
        if self.are_rankings:
            return RankingScorer([], self._queries(), self.top_k)
        if self.task is Task.MULTI_LABEL:
            return MultiLabelScorer([], self.labels)
        if self.task is Task.TOKEN:
            return TagScorer([], self.labels)
        return TextScorer([], regression=len(self.labels) == 1)

    @property
    def hash(self) -> str:
        """The hash of the texts and their pairs."""
        pairs: Sequence[Any] = self.pairs or [None] * len(self)
        rows = [{"text": text, "pair": pair} for text, pair in zip(self.texts, pairs, strict=True)]
        return data_hash(rows)

    def _queries(self) -> list[int]:
        """Return the number of the query of each document."""
        lists = self.pairs or []
        return [number for number, documents in enumerate(lists) for _ in documents]

    def _question_rows(self) -> Dataset:
        from datasets import Dataset

        ids = [str(number) for number in range(len(self))]
        return Dataset.from_dict({"id": ids, "question": self.texts, "context": self.pairs})


def list_items(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[Any],
    text_pairs: Iterable[Any] | None,
    max_length: int | None,
    top_k: int | None = None,
) -> Items:
    """List the texts. Raises `ValueError` for a model whose answers cannot be compared yet.

    And for `top_k` without lists of documents.
    """
    task, names = attachment(model).spec.task, label_names(model)
    if task not in (Task.TEXT, Task.MULTI_LABEL, Task.TOKEN, Task.SPAN):
        raise ValueError(
            f"model must classify, rank or tag texts, or answer questions, to be calibrated; got a "
            f"{type(model).__name__}. Several numbers and embeddings are not certified yet."
        )
    length = resolve_max_length(model, max_length, tokenizer.model_max_length)
    text_list = listed(texts, "texts", item="sentence" if task is Task.TOKEN else "text")
    pairs = None if text_pairs is None else listed(text_pairs, "text_pairs")
    if task is Task.SPAN and pairs is None:
        raise ValueError("text_pairs must be the contexts of the questions; got none.")
    if pairs is not None and len(pairs) != len(text_list):
        raise ValueError(
            f"text_pairs must be as many as the texts, {len(text_list)}; got {len(pairs)}."
        )
    items = Items(task, names, text_list, pairs, length, 1 if top_k is None else top_k)
    if top_k is not None:
        validate(Count, top_k, "top_k")
        if not items.are_rankings:
            raise ValueError(
                f"top_k must be left out without lists of documents to rank; got {top_k}."
            )
    if items.are_rankings and (task not in (Task.TEXT, Task.MULTI_LABEL) or len(names) != 1):
        raise ValueError(
            f"text_pairs must be one text each for a {type(model).__name__}, which ranks nothing; "
            "got lists of documents. A reranker has one logit."
        )
    if items.are_rankings and not all(items.pairs or []):
        raise ValueError("text_pairs must have a document or more for each query; got none.")
    return items


def label_names(model: PreTrainedModel) -> list[str]:
    """Return the names of a model's labels, by number."""
    labels: Any = model.config.id2label
    return [labels[number] for number in range(len(labels))]
