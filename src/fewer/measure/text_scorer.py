"""Scores of texts by one label or number each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fewer.measure.scorer import Batches, LogitScorer

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["TextScorer"]

SAME_NUMBER = 0.1  # numbers within this share of their deviation are equal
ROUNDING = 1e-6


@dataclass(frozen=True)
class TextScorer(LogitScorer):
    """Scores texts by one label or number each; answers are logits (texts, C)."""

    labels: Sequence[float]
    regression: bool = False
    label_names: Sequence[str] = ()

    def read(
        self,
        model: PreTrainedModel,
        encoded: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        batches: Batches,
        title: str,
    ) -> Tensor:
        """Return logits, in fp32 on the CPU."""
        return self.logits(model, encoded, tokenizer, batches, title)

    def score(self, answers: Tensor, rows: Sequence[int] | None = None) -> dict[str, float]:
        """Return accuracy, F1 and Matthews, or correlations."""
        from fewer.tasks.metrics import score

        rows = range(len(self.labels)) if rows is None else rows
        labels = [self.labels[row] for row in rows]
        return score(answers[list(rows)].numpy(), labels, regression=self.regression)

    def each(self, answers: Tensor) -> Tensor | None:
        """Return whether each label is right; `None` for numbers, scored by correlation."""
        if self.regression:
            return None
        return (answers.argmax(-1) == torch.tensor(self.labels)).double()

    def differs(self, answers: Tensor, reference: Tensor) -> Tensor:
        """Return which labels are others, or which numbers are off by a tenth of the deviation."""
        if not self.regression:
            return answers.argmax(-1) != reference.argmax(-1)
        tolerance = SAME_NUMBER * float(reference.std(correction=0)) + ROUNDING
        return (answers - reference).abs().reshape(-1) > tolerance

    def remark(self, answers: Tensor) -> str:
        """Name the label if all texts get the same."""
        if len(answers) < 2:
            return ""
        if self.regression:
            return "every text gets the same number" if not answers.std(correction=0) else ""
        label, *more_labels = answers.argmax(-1).unique().tolist()
        name = repr(self.label_names[label]) if self.label_names else f"number {label}"
        return "" if more_labels else f"every text gets the label {name}"
