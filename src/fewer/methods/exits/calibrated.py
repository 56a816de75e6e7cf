"""What exits of texts and of spans share: temperatures, a threshold, and how they are fitted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fewer.core.cost import ModelSpec
from fewer.core.decision import Site
from fewer.core.learning import CalibrationData, TrainingBatch
from fewer.core.phase import Phase
from fewer.core.policy import ExitingPolicy
from fewer.methods.exits.criteria import CRITERIA, Criterion
from fewer.methods.exits.threshold import fit_temperatures, open_exits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fewer.methods.exits.early_exit import EarlyExit

__all__ = ["CalibratedExits"]


class CalibratedExits(ExitingPolicy):
    """Exits of `EarlyExit`. Until a phase has trained them and set the threshold, no text exits."""

    sites = frozenset({Site.AFTER})

    def __init__(self, method: EarlyExit, spec: ModelSpec) -> None:
        super().__init__()
        self.method = method
        self.num_layers = spec.num_layers
        self.layers = method.exits_of(spec)
        self.temperature: Tensor
        self.threshold: Tensor
        self.register_buffer("temperature", torch.ones(len(self.layers)))
        self.register_buffer("threshold", torch.tensor(self.criterion.never_exit))

    @property
    def criterion(self) -> Criterion:
        """On which side of the threshold a text exits. Looked up, as it cannot be pickled."""
        return CRITERIA[self.method.criterion]

    def collect_logits(
        self, batches: Sequence[TrainingBatch], number: int
    ) -> tuple[Float[Tensor, "R C"], Int[Tensor, "R"]]:
        """Collect the logits of one exit, by its number, in all batches, and the labels."""
        raise NotImplementedError

    def calibrate(self, phase: Phase, data: CalibrationData) -> None:
        """Fit temperatures to held-out labels, then set the threshold.

        It is the method's, or the one that meets the method's FLOPs ratio.
        """
        if data.first:
            return
        method, points = self.method, self.operating_points()
        assert points is not None
        if method.temperature:
            fit_temperatures(self.temperature, data, self.collect_logits)
        open_exits(points, self.criterion, method.threshold, method.target, data)
