"""What a model says of a data set, and how good it is: texts, tagged words, answers alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import TYPE_CHECKING, Any, Protocol

from fewer.tasks.classification import TextClassification
from fewer.tasks.question_answering import QuestionAnswering
from fewer.tasks.squad import check_answers, squad_rows
from fewer.tasks.tagging import Tagging

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from fewer.tasks.task import Task

__all__ = ["Scorer", "SpanScorer", "TagScorer", "TextScorer", "scorer_of"]

Batches = Sequence[Sequence[int]]


class Scorer(Protocol):
    """Knows the right answers of a data set's texts, and how to ask a model for its own."""

    def texts(self, encoded: Dataset) -> list[int]:
        """Say of which text each encoded row is; a text may be read in several."""
        ...

    def read(
        self,
        model: PreTrainedModel,
        encoded: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        batches: Batches,
        title: str,
    ) -> Any:
        """Answers of a model to all texts, in their order; rows are read in these batches."""
        ...

    def score(self, answers: Any, rows: Sequence[int] | None = None) -> dict[str, float]:
        """Score answers, of the texts `rows` or of all; higher is better."""
        ...


@dataclass(frozen=True)
class TextScorer:
    """Labels or numbers, one a text; answers are logits (texts, C)."""

    labels: Sequence[float]
    regression: bool = False

    def texts(self, encoded: Dataset) -> list[int]:
        """Count: each row is a text."""
        return list(range(len(encoded)))

    def read(
        self,
        model: PreTrainedModel,
        encoded: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        batches: Batches,
        title: str,
    ) -> Tensor:
        """Logits, in fp32 on the CPU."""
        from fewer.prediction import logits_of

        return logits_of(model, encoded, tokenizer, batches, title=title)

    def score(self, answers: Tensor, rows: Sequence[int] | None = None) -> dict[str, float]:
        """Accuracy, f1 and Matthews, or correlations."""
        from fewer.tasks.metrics import score

        own = range(len(self.labels)) if rows is None else rows
        wanted = [self.labels[row] for row in own]
        return score(answers[list(own)].numpy(), wanted, regression=self.regression)


@dataclass(frozen=True)
class TagScorer:
    """Tags, one a word; answers are legal tags."""

    tags: Sequence[Sequence[str]]
    label_names: Sequence[str]

    def texts(self, encoded: Dataset) -> list[int]:
        """Name the sentences by their numbers."""
        return list(encoded["sentence"])

    def read(
        self,
        model: PreTrainedModel,
        encoded: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        batches: Batches,
        title: str,
    ) -> list[list[str]]:
        """Choose the best legal tags of every sentence."""
        from fewer.tagger import choose_tags, tag_logits

        logits = tag_logits(model, encoded, tokenizer, batches, title=title)
        return choose_tags(logits, encoded, self.label_names)

    def score(
        self, answers: Sequence[Sequence[str]], rows: Sequence[int] | None = None
    ) -> dict[str, float]:
        """F1 of entities and accuracy over words."""
        from fewer.tasks.tag_metrics import score_tags

        own = range(len(self.tags)) if rows is None else rows
        return score_tags([answers[row] for row in own], [self.tags[row] for row in own])


@dataclass(frozen=True)
class SpanScorer:
    """Questions with their right answers, as `squad_rows` has them; answers are texts, one each."""

    rows: Dataset
    impossible: bool = False

    def texts(self, encoded: Dataset) -> list[int]:
        """Name the questions by their numbers."""
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
        from fewer.answerer import choose_answers, span_logits

        logits = span_logits(model, encoded, tokenizer, batches, title=title)
        contexts = self.rows["context"][:]
        ranked = choose_answers(logits, encoded, contexts, impossible=self.impossible)
        return [spans[0].text for spans in ranked]

    def score(self, answers: Sequence[str], rows: Sequence[int] | None = None) -> dict[str, float]:
        """F1 of words and exact match, as SQuAD counts them."""
        from fewer.tasks.qa_metrics import score_answers

        own = range(len(self.rows)) if rows is None else rows
        ids = self.rows["id"][:]
        return score_answers({ids[row]: answers[row] for row in own}, self.rows.select(own))


@singledispatch
def scorer_of(task: Task, table: Dataset) -> Scorer:
    """Read the right answers from rows as they came."""
    raise TypeError(f"there is no scorer for a {type(task).__name__}: register one for its class")


@scorer_of.register(TextClassification)
def _(task: TextClassification, table: Dataset) -> Scorer:
    return TextScorer(task.labels(table), task.regression)


@scorer_of.register(Tagging)
def _(task: Tagging, table: Dataset) -> Scorer:
    names = task.label_names
    tags = [[names[label] for label in labels] for labels in task.labels(table)]
    return TagScorer(tags, names)


@scorer_of.register(QuestionAnswering)
def _(task: QuestionAnswering, table: Dataset) -> Scorer:
    check_answers(table)
    return SpanScorer(squad_rows(table), task.impossible)
