"""What a model says of a data set, and how good it is: texts, tagged words, answers alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from itertools import chain
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
SAME_NUMBER = 0.1  # answers of regression are the same within this share of their deviation
ROUNDING = 1e-6


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

    def changed(self, answers: Any, reference: Any) -> float:
        """Return the share of answers that differ from the reference's, in [0, 1]."""
        ...

    def remark(self, answers: Any) -> str:
        """Say what is wrong with answers that are all alike; "" where they are not."""
        ...


@dataclass(frozen=True)
class TextScorer:
    """Labels or numbers, one a text; answers are logits (texts, C)."""

    labels: Sequence[float]
    regression: bool = False
    label_names: Sequence[str] = ()

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
        from fewer.inference.predict import logits_of

        return logits_of(model, encoded, tokenizer, batches, title=title)

    def score(self, answers: Tensor, rows: Sequence[int] | None = None) -> dict[str, float]:
        """Accuracy, f1 and Matthews, or correlations."""
        from fewer.tasks.metrics import score

        own = range(len(self.labels)) if rows is None else rows
        wanted = [self.labels[row] for row in own]
        return score(answers[list(own)].numpy(), wanted, regression=self.regression)

    def changed(self, answers: Tensor, reference: Tensor) -> float:
        """Count other labels; of numbers those farther off than a tenth of their deviation."""
        if not self.regression:
            return float((answers.argmax(-1) != reference.argmax(-1)).double().mean())
        tolerance = SAME_NUMBER * float(reference.std(correction=0)) + ROUNDING
        return float(((answers - reference).abs() > tolerance).double().mean())

    def remark(self, answers: Tensor) -> str:
        """Name the label that every text gets."""
        if len(answers) < 2:
            return ""
        if self.regression:
            return "every text gets the same number" if not answers.std(correction=0) else ""
        label, *others = answers.argmax(-1).unique().tolist()
        name = repr(self.label_names[label]) if self.label_names else f"number {label}"
        return "" if others else f"every text gets the label {name}"


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
        from fewer.inference.tag import choose_tags, tag_logits

        logits = tag_logits(model, encoded, tokenizer, batches, title=title)
        return choose_tags(logits, encoded, self.label_names)

    def score(
        self, answers: Sequence[Sequence[str]], rows: Sequence[int] | None = None
    ) -> dict[str, float]:
        """F1 of entities and accuracy over words."""
        from fewer.tasks.tag_metrics import score_tags

        own = range(len(self.tags)) if rows is None else rows
        answered, wanted = ([tags[row] for row in own] for tags in (answers, self.tags))
        return score_tags(answered, wanted, self.label_names)

    def changed(
        self, answers: Sequence[Sequence[str]], reference: Sequence[Sequence[str]]
    ) -> float:
        """Count words with another tag."""
        pairs = list(zip(chain(*answers), chain(*reference), strict=True))
        return sum(tag != other for tag, other in pairs) / max(len(pairs), 1)

    def remark(self, answers: Sequence[Sequence[str]]) -> str:
        """Say that no entity was predicted, or name the tag that every word gets."""
        tags = set(chain(*answers))
        if len(tags) != 1:
            return ""
        (tag,) = tags
        return "no entity was predicted" if tag == "O" else f"every word gets the tag {tag!r}"


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
        from fewer.inference.answer import choose_answers, span_logits

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

    def changed(self, answers: Sequence[str], reference: Sequence[str]) -> float:
        """Count answers of other words, as SQuAD compares them."""
        from fewer.tasks.qa_metrics import words_of

        pairs = list(zip(answers, reference, strict=True))
        return sum(words_of(text) != words_of(other) for text, other in pairs) / max(len(pairs), 1)

    def remark(self, answers: Sequence[str]) -> str:
        """Say that every answer is empty."""
        return "" if any(answers) else "every answer is empty"


@singledispatch
def scorer_of(task: Task, table: Dataset) -> Scorer:
    """Read the right answers from rows as they came."""
    raise TypeError(f"there is no scorer for a {type(task).__name__}: register one for its class")


@scorer_of.register(TextClassification)
def _(task: TextClassification, table: Dataset) -> Scorer:
    return TextScorer(task.labels(table), task.regression, task.label_names)


@scorer_of.register(Tagging)
def _(task: Tagging, table: Dataset) -> Scorer:
    names = task.label_names
    tags = [[names[label] for label in labels] for labels in task.labels(table)]
    return TagScorer(tags, names)


@scorer_of.register(QuestionAnswering)
def _(task: QuestionAnswering, table: Dataset) -> Scorer:
    check_answers(table)
    return SpanScorer(squad_rows(table), task.impossible)
