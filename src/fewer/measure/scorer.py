"""What a scorer does: it computes a model's answers to a data set, and scores them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, cast

from fewer.tasks.text_windows import LongTexts, check_overlong, merge_windows, window_texts

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from fewer.inference.candidate_lists import CandidateLists

__all__ = ["Batches", "LogitScorer", "Scorer", "WindowScorer"]

Batches = Sequence[Sequence[int]]


class Scorer(Protocol):
    """Computes a model's answers to the texts of a data set, and scores them by the labels."""

    def texts(self, encoded: Dataset) -> list[int]:
        """Return the text number of each encoded row; a text may have several rows."""
        ...

    def lists(self, model: nn.Module) -> CandidateLists | None:
        """Return the lists of rows that the model compares with each other, if it compares any."""
        return None

    def for_overlong(self, overlong: str) -> Scorer:
        """Return the scorer of rows that a task encoded by this rule for long texts.

        Raises `ValueError` for a rule that the task does not know.
        """
        raise ValueError(
            f"overlong must be left out for this task, which reads long texts in windows; got "
            f"{overlong!r}."
        )

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
        """Return the score of each text, (texts), whose mean is the first metric, if it is one.

        A text without a score has NaN, and does not count.
        """
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


@dataclass(frozen=True, kw_only=True)
class WindowScorer(Scorer):
    """A scorer of answers that are made of one output per text, or of its windows' merged."""

    overlong: LongTexts = "truncate"  # as texts are encoded

    def for_overlong(self, overlong: str) -> Scorer:
        """Merge the outputs of windows by this rule."""
        check_overlong(overlong)
        return replace(self, overlong=cast("LongTexts", overlong))


@dataclass(frozen=True, kw_only=True)
class LogitScorer(WindowScorer):
    """A scorer of answers that are made of logits; they change as one by one they differ."""

    def texts(self, encoded: Dataset) -> list[int]:
        """Return the number of the text of each row, which is a text or one of its windows."""
        texts = window_texts(encoded)
        return list(range(len(encoded))) if texts is None else texts

    def logits(
        self,
        model: PreTrainedModel,
        encoded: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        batches: Batches,
        title: str,
    ) -> Tensor:
        """Return the logits of each text, in fp32 on the CPU."""
        from fewer.inference.predict import logits_of

        logits = logits_of(model, encoded, tokenizer, batches, title=title)
        texts = window_texts(encoded)
        if texts is None:
            return logits
        return merge_windows(logits, texts, max(texts) + 1, self.overlong)

    def changed(self, answers: Tensor, reference: Tensor) -> float:
        """Return the share of answers that differ."""
        return float(self.differs(answers, reference).double().mean())
