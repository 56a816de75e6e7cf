"""What a scorer does: it computes a model's answers to a data set, and scores them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from fewer.inference.candidate_lists import CandidateLists

__all__ = ["Batches", "CountsDifferences", "Scorer"]

Batches = Sequence[Sequence[int]]


class Scorer(Protocol):
    """Computes a model's answers to the texts of a data set, and scores them by the labels."""

    def texts(self, encoded: Dataset) -> list[int]:
        """Return the text number of each encoded row; a text may have several rows."""
        ...

    def lists(self, model: nn.Module) -> CandidateLists | None:
        """Return the lists of rows that the model compares with each other, if it compares any."""
        return None

    def read(
        self,
        model: PreTrainedModel,
        encoded: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        batches: Batches,
        title: str,
    ) -> Any:
        """Return a model's answers to all texts, in their order; it computes in these batches."""
        ...

    def score(self, answers: Any, rows: Sequence[int] | None = None) -> dict[str, float]:
        """Score answers to the texts `rows` or to all; higher is better."""
        ...

    def each(self, answers: Any) -> Tensor | None:
        """Return the score of each text, (texts), whose mean is the first metric, if it is one."""
        ...

    def differs(self, answers: Any, reference: Any) -> Tensor:
        """Return whether the answer to each text is another than the reference's, (texts)."""
        ...

    def changed(self, answers: Any, reference: Any) -> float:
        """Return the share of answers that differ from the reference's, in [0, 1]."""
        ...

    def remark(self, answers: Any) -> str:
        """Describe answers that are all the same; "" for any others."""
        ...


class CountsDifferences(Scorer, Protocol):
    """A scorer whose answers change as one by one they differ."""

    def changed(self, answers: Tensor, reference: Tensor) -> float:
        """Return the share of answers that differ."""
        return float(self.differs(answers, reference).double().mean())
