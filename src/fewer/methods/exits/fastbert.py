"""FastBERT: self-distillation with adaptive inference time (Liu et al., ACL 2020).

https://arxiv.org/abs/2004.02178. Each exit is a small attention over all tokens of the text. The
model is fine-tuned as always; then it stays as it is, and the exits learn what it says, without
labels: the sum over l < L of KL(p_L || p_l). A text leaves when its normalised entropy ("speed" in
the paper) is below the threshold.

What differs from the authors' code: only [CLS] asks in the heads' attention, since only its row is
used; the heads are counted (a few percent of a layer each); and the last layer keeps the model's
own head instead of one of this kind. The maps of queries and keys are one matrix per attention
head, and those of values and of the output another: theirs are products of two, of half the rank,
so that our heads can be any of theirs and more, with the same number of weights.
"""

from __future__ import annotations

from fewer._validation.settings import settings
from fewer.methods.exits.early_exit import CriterionName, EarlyExit, HeadName, Training
from fewer.methods.exits.losses import Teacher

__all__ = ["FastBERT"]


@settings
class FastBERT(EarlyExit):
    """Exit at a low normalised entropy, with heads distilled from the last layer."""

    head: HeadName = "attentive"
    criterion: CriterionName = "normalised_entropy"
    training: Training = "frozen"
    teacher: Teacher = "last"
