"""Calibrate a policy on a sample of rows: by FLOPs ratios, labelled batches, or a score."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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

from fewer.core.cost import Task
from fewer.core.learning import CalibrationData, TrainingBatch
from fewer.core.phase import Phase
from fewer.core.trace import Trace, record
from fewer.hf.attach import attachment, evaluating, running
from fewer.training.qa_collator import RELEVANT, TAUGHT, SpanCollator

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["calibrate", "collator_for", "draw_sample", "sample_size"]

SAMPLE_TEXTS = 512  # at most; a bisection runs them a dozen times
SAMPLE_TOKENS = 1 << 17
READ_ONCE = 8  # times as many where one pass over them is enough
BATCH_TEXTS, BATCH_TOKENS = 64, 1 << 14
_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}
Collator = Callable[[list[dict[str, Any]]], Any]


def sample_size(lengths: Sequence[int], phase: Phase) -> int:
    """Return how many texts, from the first, suffice to calibrate a policy in a phase."""
    tokens = torch.tensor(lengths).cumsum(0)
    limit = SAMPLE_TOKENS * (READ_ONCE if phase.reads_once else 1)
    return max(1, int((tokens <= limit).sum()))


def draw_sample(encoded: Dataset, order: Sequence[int], phase: Phase) -> Dataset:
    """Select the rows that a policy is calibrated on in a phase, the first in this order."""
    limit = SAMPLE_TEXTS * (READ_ONCE if phase.reads_once else 1)
    rows = encoded.select(order[:limit])
    lengths = [len(ids) for ids in rows["input_ids"]]
    return rows.select(range(sample_size(lengths, phase)))


def collator_for(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Collator:
    """Return the collator that pads rows, and the labels of the model's head with them."""
    collators: dict[Task, Callable[[PreTrainedTokenizerBase], Collator]] = {
        Task.TOKEN: DataCollatorForTokenClassification,
        Task.SPAN: SpanCollator,
    }
    return collators.get(attachment(model).spec.task, DataCollatorWithPadding)(tokenizer)


def calibrate(
    model: PreTrainedModel, phase: Phase, sample: Dataset, collator: Collator, *, first: bool
) -> None:
    """Calibrate the policy of a model on a sample, before a phase (`first`) or after it."""
    attached = attachment(model)

    @cache
    def batches() -> list[dict[str, Tensor]]:
        return _make_batches(model, sample, collator)

    def run(current: Phase) -> Iterator[TrainingBatch]:
        head = attached.head
        with evaluating(model) as view, torch.no_grad(), running(view, current):
            for trace, logits, batch in _run_batches(view, batches()):
                labels, relevant = head.get_labels(batch), batch.get(RELEVANT)
                yield TrainingBatch(trace, current, 0, logits, labels, head.loss, relevant)

    def flops_ratio(current: Phase) -> float:
        traces = [batch.trace for batch in run(current)]
        flops = sum(float(attached.spec.flops(trace).sum()) for trace in traces)
        dense = sum(float(attached.spec.dense_flops_of(trace).sum()) for trace in traces)
        return flops / dense

    def score(current: Phase) -> float:
        return -float(torch.cat([batch.losses for batch in run(current)]).mean())

    data = CalibrationData(first, phase, run, flops_ratio, score)
    attached.policy.calibrate(phase, data)


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
    head = attachment(model).head
    for batch in batches:
        inputs = {name: values for name, values in batch.items() if name not in TAUGHT}
        with record() as traces:
            logits = head.get_logits(model(**inputs))
        (trace,) = traces
        yield trace, logits, batch
