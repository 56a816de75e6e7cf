"""PABEE: patience-based early exit (Zhou et al., NeurIPS 2020, https://arxiv.org/abs/2006.04152).

One pooler for all layers, a classifier for each, trained together with the model: the sum of
l CE_l / sum of l. A text leaves when P exits in a row said the same as the one before them, so at
the earliest after P + 1 layers; numbers are the same within `tolerance`. `threshold` is P.

What differs from the authors' code: each text counts for itself (there the whole batch has to
agree). The pooler starts as a copy of the model's and learns apart from it; there the two are one
module. In a model of six layers P above 4 can never be reached.
"""

from __future__ import annotations

from fewer._validation.settings import settings
from fewer._validation.types import NonNegative, Pair
from fewer.methods.exits.early_exit import CriterionName, EarlyExit, HeadName, Training
from fewer.methods.exits.losses import Teacher, Weights

__all__ = ["PABEE"]


@settings
class PABEE(EarlyExit):
    """Exit when some exits in a row agree, with heads trained together with the model."""

    head: HeadName = "shared"
    criterion: CriterionName = "patience"
    training: Training = "joint"
    teacher: Teacher = "labels"
    weights: Weights = "depth"
    epochs: NonNegative = 5.0
    learning_rates: Pair = (2e-5, 1e-3)
