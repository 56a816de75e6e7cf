"""Ridge regression of numbers on states that are read batch by batch and not kept."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

__all__ = ["StreamedRidge", "with_one"]


_LEAST_SPREAD = 1e-9  # of the largest: what is below is rounding


class StreamedRidge:
    """Sums of the rows that it was given, and the regression by them; in fp64."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self._gram = torch.zeros(inputs + 1, inputs + 1, dtype=torch.float64)
        self._moments = torch.zeros(inputs + 1, outputs, dtype=torch.float64)

    def add(
        self,
        inputs: Float[Tensor, "G F"],
        goals: Float[Tensor, "G C"],
        rows: Bool[Tensor, "G"],
    ) -> None:
        """Add these rows of states, the last number for the bias, and of what they estimate."""
        states = inputs[rows].detach().cpu().double()
        self._gram += states.T @ states
        self._moments += states.T @ goals[rows].detach().cpu().double()

    @property
    def rows(self) -> int:
        """How many rows were added."""
        return int(self._gram[-1, -1])

    @property
    def rank(self) -> int:
        """In how many directions the rows lie, the bias aside."""
        spread = torch.linalg.eigvalsh(self._gram[:-1, :-1])
        return int((spread > _LEAST_SPREAD * spread[-1]).sum())

    def solve(self, ridge: float) -> tuple[Float[Tensor, "C D"], Float[Tensor, "C"]]:
        """Return weight and bias; the penalty is `ridge` times the mean square of an input."""
        if not bool(self._gram.any()):  # of no rows: all that is estimated is 0
            return self._moments[:-1].T.float(), self._moments[-1].float()
        penalty = torch.full((len(self._gram),), ridge * float(self._gram.diagonal()[:-1].mean()))
        penalty[-1] = 0.0  # none on the bias
        solution = torch.linalg.solve(self._gram + penalty.double().diag(), self._moments)
        return solution[:-1].T.float(), solution[-1].float()


def with_one(states: Float[Tensor, "G D"]) -> Float[Tensor, "G F"]:
    """Add a number for the bias, 1, to each state; fp32."""
    return functional.pad(states.float(), (0, 1), value=1.0)
