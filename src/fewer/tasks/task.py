"""The interfaces of a task for training and measuring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


class Encoding(Protocol):
    """What a measurement needs of a task: its rows as token ids."""

    def encode(
        self,
        rows: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        training: bool = True,
    ) -> Dataset:
        """Encode rows without padding, in the same order; for training with their labels.

        A row that is too long may become several. In training, a row without a label may be left
        out; without `training`, no row is.
        """
        ...


class Task(Encoding, Protocol):
    """A task: its columns, its labels and the head of its models."""

    head: ClassVar[str]  # suffix of transformers' classes: "SequenceClassification" and so on

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
        """Problem type of the Hugging Face config, if it has one."""
        ...
