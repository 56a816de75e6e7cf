"""What training and measuring ask of a task, whatever its rows hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


class Task(Protocol):
    """The columns that a task reads, and the head that a model needs for it."""

    head: ClassVar[str]  # as transformers' classes end: "SequenceClassification" and so on

    @property
    def num_labels(self) -> int:
        """Outputs of the head."""
        ...

    @property
    def id2label(self) -> Mapping[int, str]:
        """Name of each output."""
        ...

    @property
    def label2id(self) -> Mapping[str, int]:
        """Output of each name."""
        ...

    @property
    def problem_type(self) -> str | None:
        """What Hugging Face calls it, where it has a name."""
        ...

    def encode(
        self,
        rows: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        training: bool = True,
    ) -> Dataset:
        """Encode rows without padding, in the same order; for training with what they teach.

        A row that does not fit may become several, and one that teaches nothing none; otherwise,
        to be answered, all are there.
        """
        ...
