"""Calibrate a policy on a sample of rows, by FLOPs ratios and labelled batches."""

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

SAMPLE_TEXTS = 512  # at most; a bisection runs them a dozen times
SAMPLE_TOKENS = 1 << 17
BATCH_TEXTS, BATCH_TOKENS = 64, 1 << 14
_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}
Collator = Callable[[list[dict[str, Any]]], Any]


def sample_size(lengths: Sequence[int]) -> int:
    """Return how many texts, from the first, suffice to calibrate a policy."""
    tokens = torch.tensor(lengths).cumsum(0)
    return max(1, int((tokens <= SAMPLE_TOKENS).sum()))


def collator_for(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Collator:
    """Return the collator that pads rows, and the labels of the model's head with them."""
    collators: dict[str, Callable[[PreTrainedTokenizerBase], Collator]] = {
        "token": DataCollatorForTokenClassification,
        "span": SpanCollator,
    }
    return collators.get(attachment(model).shape.answers, DataCollatorWithPadding)(tokenizer)


def calibrate(
    model: PreTrainedModel, phase: Phase, sample: Dataset, collator: Collator, *, first: bool
) -> None:
    """Calibrate the policy of a model on a sample, before a phase (`first`) or after it."""
    attached = attachment(model)

    @cache
    def batches() -> list[dict[str, Tensor]]:
        return _make_batches(model, sample, collator)

    def flops_ratio() -> float:
        with _apply_compact(model) as eval_model:
            traces = [trace for trace, *_ in _run_batches(eval_model, batches())]
        flops = sum(float(attached.shape.flops(trace).sum()) for trace in traces)
        dense = sum(float(attached.shape.dense_flops_of(trace).sum()) for trace in traces)
        return flops / dense

    def training_batches() -> Iterator[TrainingBatch]:
        with _apply_compact(model) as eval_model:
            policy = attachment(eval_model).policy.train()  # exit heads compute, no text exits
            loss = task_loss(model.config, attached.shape.answers)
            try:
                for trace, logits, batch in _run_batches(eval_model, batches()):
                    labels = labels_of(batch, attached.shape.answers)
                    yield TrainingBatch(trace, phase, 0, logits, labels, loss, batch.get(RELEVANT))
            finally:
                policy.eval()

    attached.policy.calibrate(phase, CalibrationData(first, flops_ratio, training_batches))


@contextmanager
def _apply_compact(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """Yield a view of a model that computes as at inference."""
    with evaluating(model) as eval_model, torch.no_grad(), applying(eval_model, "compact"):
        yield eval_model


def _make_batches(
    model: PreTrainedModel, rows: Dataset, collator: Collator
) -> list[dict[str, Tensor]]:
    """Sort rows by length and pad them into batches."""
    names = {*_INPUTS, *TAUGHT} & set(rows.column_names)
    columns = rows.select_columns(sorted(names))
    sorted_rows = sorted(columns, key=lambda row: len(row["input_ids"]))
    longest = len(sorted_rows[-1]["input_ids"]) if sorted_rows else 1
    size = max(1, min(BATCH_TEXTS, BATCH_TOKENS // longest))
    return [
        dict(collator(sorted_rows[start : start + size]).to(model.device))
        for start in range(0, len(sorted_rows), size)
    ]


def _run_batches(
    model: PreTrainedModel, batches: list[dict[str, Tensor]]
) -> Iterator[tuple[Trace, Tensor, dict[str, Tensor]]]:
    answers = attachment(model).shape.answers
    for batch in batches:
        inputs = {name: values for name, values in batch.items() if name not in TAUGHT}
        with record() as traces:
            logits = logits_of(model(**inputs), answers)
        (trace,) = traces
        yield trace, logits, batch
