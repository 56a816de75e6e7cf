"""What a policy learns from, is calibrated on, and may be set to afterwards."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fewer.core.phase import Phase
from fewer.core.trace import Trace

__all__ = [
    "CalibrationData",
    "PredictorResult",
    "TeacherOutput",
    "TrainingBatch",
    "warn_if_missed",
]

RATIO_MET, RATIO_MISSED = 0.002, 0.01  # distances of a FLOPs ratio from its target


def warn_if_missed(method: str, target: float, gap: float, reason: str) -> None:
    """Warn that a calibration ended `gap` off its target, where that is more than rounding."""
    if abs(gap) > RATIO_MISSED:
        warnings.warn(
            f"{method} keeps {target + gap:.3f} of the FLOPs, not the target of {target}: {reason}",
            stacklevel=3,
        )


@dataclass(frozen=True)
class TeacherOutput:
    """What a teacher computes for a batch: the model before the phase, dense, or another pass."""

    logits: Tensor  # as those of the batch
    trace: Trace  # with what the policy needs in a trace: states, attention received


@dataclass(frozen=True)
class TrainingBatch:
    """What a policy may learn from: one pass over a batch with labels."""

    trace: Trace
    phase: Phase
    step: int  # of the phase, from 0
    logits: Tensor  # of the model's own head: (B, C), or (B, N, C) of tags, of starts and ends
    labels: Tensor | None  # (B,), (B, N) with -100 where there is none, (B, 2) of spans
    loss: Callable[[Tensor, Tensor], Tensor]  # the task's, of logits (R, C) and labels (R,)
    relevant: Tensor | None = None  # (B, N): 1 a token of the answer, 2 of evidence for it
    teacher: TeacherOutput | None = None  # where the phase, or this pass of it, has one

    @property
    def losses(self) -> Float[Tensor, "B"]:
        """The task's loss of each text, with its gradient. Raises `ValueError` without labels."""
        labels = self.labels
        if labels is None:
            raise ValueError("labels must be given for a loss per text; got none. Add the column.")
        texts = range(len(labels))
        return torch.stack(
            [self.loss(self.logits[row : row + 1], labels[row : row + 1]) for row in texts]
        )


@dataclass(frozen=True)
class CalibrationData:
    """A sample of rows that a policy is fitted on when a phase calibrates."""

    first: bool  # whether the phase is still to come
    phase: Phase
    run: Callable[[Phase], Iterator[TrainingBatch]]  # the sample, batch by batch
    flops: Callable[[Phase], float]  # FLOPs of the sample over the dense FLOPs
    metric: Callable[[Phase], float]  # minus the task's loss

    def flops_ratio(self) -> float:
        """Run the sample with real decisions; return its FLOPs over the dense FLOPs."""
        return self.flops(self._real)

    def score(self) -> float:
        """Run the sample with real decisions; return minus the mean loss of its texts.

        Where the phase `holds_out`, nothing trains on these rows.
        """
        return self.metric(self._real)

    def batches(self) -> Iterator[TrainingBatch]:
        """Run the sample batch by batch; the policy's heads compute, but it decides nothing."""
        return self.run(self.phase.in_place("observe"))

    def real_batches(self) -> Iterator[TrainingBatch]:
        """Run the sample batch by batch with real decisions, in the order of `batches`."""
        return self.run(self._real)

    def of_part(self, number: int) -> CalibrationData:
        """Return the same sample for a part of a stack, with the parts before it in place."""
        return replace(self, phase=replace(self.phase, part=(number,)))

    @property
    def _real(self) -> Phase:
        return self.phase.in_place("compact", exits=True)

    def bisect(
        self,
        target: float,
        setter: Callable[[float], object],
        low: float,
        high: float,
        start: float,
    ) -> float:
        """Bisect a setting between two positive numbers until the FLOPs ratio is the target.

        The ratio falls as the number grows; +-0.002 will do. Returns how far it is off at last.
        """
        value, gap = start, 0.0
        while high / low > 1.001:
            setter(value)
            gap = self.flops_ratio() - target
            if abs(gap) < RATIO_MET:
                break
            low, high = (value, high) if gap > 0 else (low, value)
            value = (low * high) ** 0.5
        return gap


@dataclass(frozen=True)
class PredictorResult:
    """What a predictor of one layer computed for parts of texts, and their true labels."""

    layer: int
    logits: Float[Tensor, "R 2"]  # of irrelevant, of relevant
    matters: Int[Tensor, "R"]  # 0 or 1
