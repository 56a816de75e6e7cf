"""Right Tool: matching model and instance complexities (Schwartz et al., ACL 2020).

https://arxiv.org/abs/2004.07453. Exit i reads a mix of the pooled states of all exits so far,

    r_i = sum over j <= i of w_ij tanh(W_p h_j + b_p),  ||w_i|| = 1,    z_i = (W_i r_i + b_i) / T_i

all exits learn from the labels at once, equally weighted, and each T_i is then fitted to held-out
answers. A text leaves when its largest probability reaches the threshold.

What differs from the authors' code, and why:

- The mixing weights are learned. There they are made a new parameter after each step, so that the
  optimiser still moves the old one: published results use fixed random mixtures.
- Each text decides for itself. There the largest probability of the whole batch decides for all.
- The temperatures are saved with the model and cannot become negative; they are fitted on rows that
  nothing trained on.
- The pooler W_p starts as a copy of the model's and learns apart from it; there the two are one.
- The last exit is the model's own head, which is not a mixture. Layers without an exit are not
  mixed.
"""

from __future__ import annotations

from fewer._validation.settings import settings
from fewer._validation.types import NonNegative, Pair
from fewer.methods.exits.early_exit import CriterionName, EarlyExit, HeadName, Training
from fewer.methods.exits.losses import Teacher

__all__ = ["RightTool"]


@settings
class RightTool(EarlyExit):
    """Exit at a calibrated probability, from mixtures of the layers so far."""

    head: HeadName = "mixed"
    criterion: CriterionName = "probability"
    temperature: bool = True
    training: Training = "joint"
    teacher: Teacher = "labels"
    epochs: NonNegative = 3.0
    learning_rates: Pair = (3e-5, 1e-3)
