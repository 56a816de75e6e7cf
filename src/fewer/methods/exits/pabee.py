"""PABEE: patience-based early exit (Zhou et al., NeurIPS 2020, https://arxiv.org/abs/2006.04152).

One pooler for all layers, a classifier for each, trained together with the model: the sum of
l CE_l / sum of l. A text leaves when P exits in a row said the same as the one before them, so at
the earliest after P + 1 layers; numbers are the same within `tolerance`. `threshold` is P.

What differs from the authors' code: each text counts for itself (there the whole batch has to
agree). The pooler starts as a copy of the model's and learns apart from it; there the two are one
module. In a model of six layers P above 4 can never be reached.
"""

from __future__ import annotations

from dataclasses import dataclass

from fewer.methods.exits.early_exit import EarlyExit, Training
from fewer.methods.exits.losses import Teacher, Weights

__all__ = ["PABEE"]


@dataclass(frozen=True, kw_only=True)
class PABEE(EarlyExit):
    """Exit when some exits in a row agree, with heads trained together with the model."""

    head: str = "shared"
    criterion: str = "patience"
    training: Training = "joint"
    teacher: Teacher = "labels"
    weights: Weights = "depth"
    epochs: float = 5.0
    learning_rates: tuple[float, float] = (2e-5, 1e-3)
