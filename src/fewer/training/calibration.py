"""Fit a policy to a sample of rows: shares of FLOPs, and answers that are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import (
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from fewer.core.policy import CalibrationData, Phase, TrainingBatch
from fewer.core.trace import Trace, record
from fewer.hf.attach import applying, attachment, evaluating
from fewer.hf.task_heads import labels_of, logits_of, task_loss
from fewer.training.qa_collator import RELEVANT, TAUGHT, SpanCollator

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["SAMPLE_TEXTS", "calibrate", "collator_for", "sample_size"]

SAMPLE_TEXTS = 512  # at most; a bisection reads them a dozen times
SAMPLE_TOKENS = 1 << 17
BATCH_TEXTS, BATCH_TOKENS = 64, 1 << 14
_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}
Collator = Callable[[list[dict[str, Any]]], Any]


def sample_size(lengths: Sequence[int]) -> int:
    """Tell how many of these texts, the first of them, are enough to fit a policy to."""
    read = torch.tensor(lengths).cumsum(0)
    return max(1, int((read <= SAMPLE_TOKENS).sum()))


def collator_for(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Collator:
    """Pad rows into a batch, and with them what the head learns of each token."""
    padding: dict[str, Callable[[PreTrainedTokenizerBase], Collator]] = {
        "token": DataCollatorForTokenClassification,
        "span": SpanCollator,
    }
    return padding.get(attachment(model).shape.answers, DataCollatorWithPadding)(tokenizer)


def calibrate(
    model: PreTrainedModel, phase: Phase, sample: Dataset, collator: Collator, *, first: bool
) -> None:
    """Let the policy of a model be fitted to a sample, before a phase (`first`) or after it."""
    own = attachment(model)

    @cache
    def batches() -> list[dict[str, Tensor]]:
        return _batches(model, sample, collator)

    def share() -> float:
        with _hard(model) as reader:
            traces = [trace for trace, *_ in _passes(reader, batches())]
        kept = sum(float(own.shape.flops(trace).sum()) for trace in traces)
        dense = sum(float(own.shape.dense_flops_of(trace).sum()) for trace in traces)
        return kept / dense

    def lessons() -> Iterator[TrainingBatch]:
        with _hard(model) as reader:
            policy = attachment(reader).policy.train()  # exits speak, nobody leaves
            loss = task_loss(model.config, own.shape.answers)
            try:
                for trace, logits, batch in _passes(reader, batches()):
                    labels = labels_of(batch, own.shape.answers)
                    yield TrainingBatch(trace, phase, 0, logits, labels, loss, batch.get(RELEVANT))
            finally:
                policy.eval()

    own.policy.calibrate(phase, CalibrationData(first, share, lessons))


@contextmanager
def _hard(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """Give a view of a model that reads as at inference."""
    with evaluating(model) as reader, torch.no_grad(), applying(reader, "compact"):
        yield reader


def _batches(model: PreTrainedModel, rows: Dataset, collator: Collator) -> list[dict[str, Tensor]]:
    """Pad rows of like length together."""
    names = {*_INPUTS, *TAUGHT} & set(rows.column_names)
    plain = rows.select_columns(sorted(names))
    ordered = sorted(plain, key=lambda row: len(row["input_ids"]))
    longest = len(ordered[-1]["input_ids"]) if ordered else 1
    size = max(1, min(BATCH_TEXTS, BATCH_TOKENS // longest))
    return [
        dict(collator(ordered[start : start + size]).to(model.device))
        for start in range(0, len(ordered), size)
    ]


def _passes(
    model: PreTrainedModel, batches: list[dict[str, Tensor]]
) -> Iterator[tuple[Trace, Tensor, dict[str, Tensor]]]:
    answers = attachment(model).shape.answers
    for batch in batches:
        inputs = {name: values for name, values in batch.items() if name not in TAUGHT}
        with record() as traces:
            logits = logits_of(model(**inputs), answers)
        (trace,) = traces
        yield trace, logits, batch
