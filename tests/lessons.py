"""Lessons and rehearsals for policies under test, from what a test cares about."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fewer import Phase, Trace
from fewer.core.policy import CalibrationData, TeacherOutput, TrainingBatch

PHASE = Phase("any", "compact", "all", 1, 1e-3, regularise=True)


def lesson(
    trace: Trace,
    logits: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    phase: Phase = PHASE,
    step: int = 0,
    relevant: Tensor | None = None,
    teacher: TeacherOutput | None = None,
) -> TrainingBatch:
    """Build a lesson whose task is classification."""
    told = torch.zeros(trace.grid[0], 3) if logits is None else logits
    task = torch.nn.functional.cross_entropy
    return TrainingBatch(trace, phase, step, told, labels, task, relevant, teacher)


def rehearsal(share: Callable[[], float], *, first: bool = False) -> CalibrationData:
    """Build a rehearsal that measures shares and knows no answers."""
    return CalibrationData(first, share, lambda: iter(()))
