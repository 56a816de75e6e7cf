"""Training batches and calibration data for policies under test, from what a test cares about."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fewer import Phase, Trace
from fewer.core.learning import CalibrationData, TeacherOutput, TrainingBatch

PHASE = Phase("any", "compact", "all", 1, 1e-3, regularise=True)


def training_batch(
    trace: Trace,
    logits: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    phase: Phase = PHASE,
    step: int = 0,
    relevant: Tensor | None = None,
    teacher: TeacherOutput | None = None,
) -> TrainingBatch:
    """Build a batch whose task is classification."""
    logits = torch.zeros(trace.grid[0], 3) if logits is None else logits
    loss = torch.nn.functional.cross_entropy
    return TrainingBatch(trace, phase, step, logits, labels, loss, relevant, teacher)


def calibration_data(
    flops_ratio: Callable[[], float] = lambda: 1.0,
    batches: Callable[[], Iterator[TrainingBatch]] = lambda: iter(()),
    *,
    score: Callable[[], float] = lambda: 0.0,
    first: bool = False,
    phase: Phase = PHASE,
) -> CalibrationData:
    """Build a sample that measures as it is told, whatever the phase."""
    return CalibrationData(
        first, phase, lambda _: batches(), lambda _: flops_ratio(), lambda _: score()
    )
