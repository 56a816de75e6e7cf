"""DeeBERT: dynamic early exiting (Xin et al., ACL 2020, https://arxiv.org/abs/2004.12993).

Each layer but the last has a pooler and a classifier of its own on [CLS]. The model is fine-tuned
as always; then it stays as it is, and the exits learn from the labels: the sum over l < L of CE_l.
A text leaves when the entropy of its answer is below the threshold, which depends on the number of
classes: 0 .. ln C.

What differs from the authors' code: texts leave a batch of any size (there an exit is an exception,
and the batch is one text), and the entropy of a certain answer is 0 (there NaN, so it never exits).
The poolers start as copies of the model's, as there, where it has one; those of DistilBERT,
ELECTRA, BigBird and ModernBERT start at random.
"""

from __future__ import annotations

from fewer._validation.settings import settings
from fewer._validation.types import NonNegative
from fewer.methods.exits.early_exit import CriterionName, EarlyExit, HeadName, Training
from fewer.methods.exits.losses import Teacher

__all__ = ["DeeBERT"]


@settings
class DeeBERT(EarlyExit):
    """Exit at a low entropy, with heads trained after the model."""

    head: HeadName = "pooled"
    criterion: CriterionName = "entropy"
    training: Training = "frozen"
    teacher: Teacher = "labels"
    epochs: NonNegative = 3.0
