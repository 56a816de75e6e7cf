"""BERxiT: better fine-tuning and learning to exit (Xin et al., EACL 2021).

https://aclanthology.org/2021.eacl-main.8. Steps alternate: the last layer alone learns from the
labels, then all exits do. Each exit has a pooler of its own, which starts as the model's. One
linear map for all layers learns to tell from an exit's features whether it is wrong,
u_l = sigmoid(w f_l + b), by squared error at every step; a text leaves when u_l is below the
threshold. As no classes are compared, it works for regression too, where the wanted u is
tanh |y - z|.

What differs from the authors' code: each text decides for itself, and the last layer learns at
every step (there one of the variants drops it from every other step). All exits shared one pooler
here once; folders saved so name `head="shared"`, and answer as before.
"""

from __future__ import annotations

from typing import ClassVar

from fewer._validation.settings import settings
from fewer._validation.types import NonNegative, Pair
from fewer.methods.exits.early_exit import CriterionName, EarlyExit, HeadName, Training
from fewer.methods.exits.losses import Teacher

__all__ = ["BERxiT"]


@settings
class BERxiT(EarlyExit):
    """Exit when a learned judge trusts the answer; model and exits train in turns."""

    former_heads: ClassVar[tuple[str, ...]] = ("shared",)

    head: HeadName = "pooled"
    criterion: CriterionName = "learned"
    training: Training = "alternating"
    teacher: Teacher = "labels"
    epochs: NonNegative = 3.0
    learning_rates: Pair = (2e-5, 1e-3)
