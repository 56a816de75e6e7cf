"""What a model says of a data set, and how good it is: texts and tagged words alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from fewer.tasks.classification import TextClassification
from fewer.tasks.tagging import Tagging

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Scorer", "TagScorer", "TextScorer", "scorer_of"]

Batches = Sequence[Sequence[int]]


class Scorer(Protocol):
    """Knows the right answers of a data set's rows, and how to ask a model for its own."""

    def read(
        self,
        model: PreTrainedModel,
        encoded: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        batches: Batches,
        title: str,
    ) -> Any:
        """Answers of a model to encoded rows, read in these batches, in the rows' order."""
        ...

    def score(self, answers: Any, rows: Sequence[int] | None = None) -> dict[str, float]:
        """Score answers, of some rows or of all; higher is better."""
        ...


@dataclass(frozen=True)
class TextScorer:
    """Labels or numbers, one a text; answers are logits (texts, C)."""

    labels: Sequence[float]
    regression: bool = False

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


def scorer_of(task: TextClassification | Tagging, table: Dataset) -> Scorer:
    """Read the right answers from rows as they came."""
    if isinstance(task, Tagging):
        names = task.label_names
        tags = [[names[label] for label in labels] for labels in task.labels(table)]
        return TagScorer(tags, names)
    return TextScorer(task.labels(table), task.regression)
