"""What exits of texts and of spans share: temperatures, a threshold, and how they are fitted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fewer.core.cost import ModelSpec
from fewer.core.decision import Site
from fewer.core.policy import CalibrationData, Phase, Policy, TrainingBatch
from fewer.methods.exits.criteria import CRITERIA, Criterion
from fewer.methods.exits.threshold import fit_temperatures, open_exits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fewer.methods.exits.early_exit import EarlyExit

__all__ = ["CalibratedExits"]


class CalibratedExits(Policy):
    """Exits of `EarlyExit`. In training mode they only speak; in eval mode the certain leave.

    Until a phase has trained them, and the threshold is set, nobody leaves.
    """

    sites = frozenset({Site.AFTER})
    answers = True

    def __init__(self, method: EarlyExit, shape: ModelSpec) -> None:
        super().__init__()
        self.method = method
        self.num_layers = shape.num_layers
        self.layers = method.exits_of(shape)
        self.temperature: Tensor
        self.threshold: Tensor
        self.register_buffer("temperature", torch.ones(len(self.layers)))
        self.register_buffer("threshold", torch.tensor(self.criterion.never))

    @property
    def criterion(self) -> Criterion:
        """On which side of the threshold a text leaves. Looked up, as it cannot be pickled."""
        return CRITERIA[self.method.criterion]

    def told(
        self, lessons: Sequence[TrainingBatch], number: int
    ) -> tuple[Float[Tensor, "R C"], Int[Tensor, "R"]]:
        """Collect what one exit, by its number, said in all lessons, and the labels."""
        raise NotImplementedError

    def calibrate(self, phase: Phase, rehearsal: CalibrationData) -> None:
        """Fit temperatures to held-out answers, then open the exits.

        The threshold is the method's, or the one that meets the method's share of FLOPs.
        """
        if rehearsal.first:
            return
        own, dial = self.method, self.dial()
        assert dial is not None
        if own.temperature:
            fit_temperatures(self.temperature, rehearsal, self.told)
        open_exits(dial, self.criterion, own.threshold, own.target, rehearsal)
