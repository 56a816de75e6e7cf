"""Answers of a model to a data set and their scores: one scorer per kind of task."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from itertools import chain
from typing import TYPE_CHECKING

import torch

from fewer._validation.names import check_known
from fewer.measure.embedding_scorers import RetrievalScorer, SimilarityScorer
from fewer.measure.ranking_scorer import RankingScorer
from fewer.measure.scorer import Batches, LogitScorer, Scorer
from fewer.measure.text_scorer import TextScorer
from fewer.tasks.classification import TextClassification
from fewer.tasks.columns import DataWarning
from fewer.tasks.embedding import Retrieval, Similarity
from fewer.tasks.multi_label import MultiLabel
from fewer.tasks.question_answering import QuestionAnswering
from fewer.tasks.reranking import Reranking
from fewer.tasks.squad import check_answers, squad_rows
from fewer.tasks.tagging import Tagging

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from fewer.tasks.task import Encoding

__all__ = [
    "MultiLabelScorer",
    "RankingScorer",
    "Scorer",
    "SpanScorer",
    "TagScorer",
    "TextScorer",
    "make_scorer",
]


@dataclass(frozen=True)
class MultiLabelScorer(LogitScorer):
    """Scores texts by any number of labels each; answers are logits above thresholds (texts, C)."""

    labels: Sequence[Sequence[float]]  # 0.0 or 1.0 for each label name
    label_names: Sequence[str]

    def read(
        self,
        model: PreTrainedModel,
        encoded: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        batches: Batches,
        title: str,
    ) -> Tensor:
        """Return logits less those of the model's own thresholds: above 0 a label applies."""
        from fewer.hf.label_thresholds import label_margins

        logits = self.logits(model, encoded, tokenizer, batches, title)
        return label_margins(model.config, logits)

    def score(self, answers: Tensor, rows: Sequence[int] | None = None) -> dict[str, float]:
        """Return micro and macro F1."""
        from fewer.tasks.metrics import score_labels

        rows = list(range(len(self.labels)) if rows is None else rows)
        return score_labels((answers[rows] > 0).numpy(), [self.labels[row] for row in rows])

    def each(self, answers: Tensor) -> Tensor | None:
        """Return `None`: F1 is no mean over texts."""
        return None

    def differs(self, answers: Tensor, reference: Tensor) -> Tensor:
        """Return which texts get another set of labels."""
        return ((answers > 0) != (reference > 0)).any(1)

    def remark(self, answers: Tensor) -> str:
        """Name the labels if all texts get the same."""
        if len(answers) < 2 or len(label_sets := (answers > 0).unique(dim=0)) > 1:
            return ""
        numbers = label_sets[0].nonzero().flatten().tolist()
        names = ", ".join(repr(self.label_names[number]) for number in numbers)
        return f"every text gets the labels {names}" if names else "no text gets a label"


@dataclass(frozen=True)
class TagScorer(Scorer):
    """Scores words by one tag each; answers are legal tags."""

    tags: Sequence[Sequence[str]]
    label_names: Sequence[str]

    def texts(self, encoded: Dataset) -> list[int]:
        """Return the sentence number of each row."""
        return list(encoded["sentence"])

    def for_overlong(self, overlong: str) -> Scorer:
        """Return the scorer itself: words are merged in one way."""
        check_known(overlong, ["error", "truncate", "window"], "overlong")
        return self

    def read(
        self,
        model: PreTrainedModel,
        encoded: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        batches: Batches,
        title: str,
    ) -> list[list[str]]:
        """Choose the best legal tags of every sentence."""
        from fewer.inference.tag import choose_tags, tag_logits

        logits = tag_logits(model, encoded, tokenizer, batches, title=title)
        return choose_tags(logits, encoded, self.label_names)

    def score(
        self, answers: Sequence[Sequence[str]], rows: Sequence[int] | None = None
    ) -> dict[str, float]:
        """Return F1 of entities and accuracy over words."""
        from fewer.tasks.tag_metrics import score_tags

        rows = range(len(self.tags)) if rows is None else rows
        predicted, gold = ([tags[row] for row in rows] for tags in (answers, self.tags))
        return score_tags(predicted, gold, self.label_names)

    def each(self, answers: Sequence[Sequence[str]]) -> None:
        """Return `None`: F1 of entities is not a mean over sentences."""

    def differs(
        self, answers: Sequence[Sequence[str]], reference: Sequence[Sequence[str]]
    ) -> Tensor:
        """Return which sentences have another tag anywhere."""
        return torch.tensor([tags != old for tags, old in zip(answers, reference, strict=True)])

    def changed(
        self, answers: Sequence[Sequence[str]], reference: Sequence[Sequence[str]]
    ) -> float:
        """Return the share of words with another tag."""
        pairs = list(zip(chain(*answers), chain(*reference), strict=True))
        return sum(tag != reference_tag for tag, reference_tag in pairs) / max(len(pairs), 1)

    def remark(self, answers: Sequence[Sequence[str]]) -> str:
        """Report that no entity was predicted, or name the tag if all words get the same."""
        tags = set(chain(*answers))
        if len(tags) != 1:
            return ""
        (tag,) = tags
        return "no entity was predicted" if tag == "O" else f"every word gets the tag {tag!r}"


@dataclass(frozen=True)
class SpanScorer(Scorer):
    """Scores questions by the answers of `squad_rows`; answers are one text per question."""

    rows: Dataset
    impossible: bool = False

    def texts(self, encoded: Dataset) -> list[int]:
        """Return the question number of each row."""
        return list(encoded["example"])

    def read(
        self,
        model: PreTrainedModel,
        encoded: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        batches: Batches,
        title: str,
    ) -> list[str]:
        """Choose the best answer to every question from all its windows."""
        from fewer.inference.answer import choose_answers, span_logits

        logits = span_logits(model, encoded, tokenizer, batches, title=title)
        contexts = self.rows["context"][:]
        ranked = choose_answers(logits, encoded, contexts, impossible=self.impossible)
        return [spans[0].text for spans in ranked]

    def score(self, answers: Sequence[str], rows: Sequence[int] | None = None) -> dict[str, float]:
        """Return F1 of words and exact match, as in SQuAD."""
        from fewer.tasks.qa_metrics import score_answers

        rows = range(len(self.rows)) if rows is None else rows
        ids = self.rows["id"][:]
        return score_answers({ids[row]: answers[row] for row in rows}, self.rows.select(rows))

    def each(self, answers: Sequence[str]) -> Tensor:
        """Return the F1 of each question."""
        from fewer.tasks.qa_metrics import f1_of_each

        ids = self.rows["id"][:]
        predictions = dict(zip(ids, answers, strict=True))
        return torch.tensor(f1_of_each(predictions, self.rows), dtype=torch.float64)

    def differs(self, answers: Sequence[str], reference: Sequence[str]) -> Tensor:
        """Return which answers have other words, compared as in SQuAD."""
        from fewer.tasks.qa_metrics import normalize_answer

        pairs = zip(answers, reference, strict=True)
        return torch.tensor([normalize_answer(a) != normalize_answer(b) for a, b in pairs])

    def changed(self, answers: Sequence[str], reference: Sequence[str]) -> float:
        """Return the share of answers with other words, compared as in SQuAD."""
        return float(self.differs(answers, reference).sum()) / max(len(answers), 1)

    def remark(self, answers: Sequence[str]) -> str:
        """Report that every answer is empty."""
        return "" if any(answers) else "every answer is empty"


@singledispatch
def make_scorer(task: Encoding, table: Dataset) -> Scorer:
    """Return the scorer of a task, with the labels of these rows."""
    raise TypeError(
        f"task must have a scorer; got a {type(task).__name__}. Register one for its class."
    )


@make_scorer.register(TextClassification)
def _(task: TextClassification, table: Dataset) -> Scorer:
    return TextScorer(task.labels(table), task.regression, task.label_names)


@make_scorer.register(MultiLabel)
def _(task: MultiLabel, table: Dataset) -> Scorer:
    return MultiLabelScorer(task.labels(table), task.label_names)


@make_scorer.register(Reranking)
def _(task: Reranking, table: Dataset) -> Scorer:
    relevance, queries = task.relevance(table), task.queries(table)
    _check_relevant(relevance, queries, task.label)
    return RankingScorer(relevance, queries)


@make_scorer.register(Retrieval)
def _(task: Retrieval, table: Dataset) -> Scorer:
    relevance, (queries, documents) = task.relevance(table), task.numbers(table)
    _check_relevant(relevance, queries, task.pairs.label)
    return RetrievalScorer(
        queries=queries, documents=documents, relevance=relevance, config=task.config
    )


def _check_relevant(relevance: Sequence[float], queries: Sequence[int], column: str) -> None:
    """Warn of queries without a relevant document. Raises `ValueError` where no query has one."""
    from fewer.tasks.rank_metrics import has_relevant

    is_scored = has_relevant(relevance, queries)
    if not is_scored.any():
        raise ValueError(
            f"column {column!r} must be above 0 for a document of a query; got none that is "
            f"relevant to one of {len(is_scored)} queries."
        )
    if not is_scored.all():
        warnings.warn(
            f"{int((~is_scored).sum())} of {len(is_scored)} queries have no relevant document; "
            "they are left out of the scores.",
            DataWarning,
            stacklevel=3,
        )


@make_scorer.register(Similarity)
def _(task: Similarity, table: Dataset) -> Scorer:
    return SimilarityScorer(labels=task.labels(table), config=task.config)


@make_scorer.register(Tagging)
def _(task: Tagging, table: Dataset) -> Scorer:
    names = task.label_names
    tags = [[names[label] for label in labels] for labels in task.labels(table)]
    return TagScorer(tags, names)


@make_scorer.register(QuestionAnswering)
def _(task: QuestionAnswering, table: Dataset) -> Scorer:
    check_answers(table)
    return SpanScorer(squad_rows(table), task.impossible)
