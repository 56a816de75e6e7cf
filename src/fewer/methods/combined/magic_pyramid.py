"""Magic Pyramid: token pruning and early exit together (He et al., ENLSP at NeurIPS 2021).

https://arxiv.org/abs/2111.00230. Pruning makes the model narrower, which helps long texts; exits
make it lower, which helps easy ones. Here it is a stack of two methods of this library, LTP and
exits that learn what the last layer says, trained in the paper's four steps:

    1 dense    model and head, as always
    2 soft     model and thresholds, tokens fade            (LTP)
    3 hard     the model alone, tokens gone                 (LTP)
    4 exits    the heads alone, tokens gone:  sum over l < L of KL(p_L || p_l)

`joint_epochs` trains all of this at once instead, in as many epochs: the dense fine-tune is then
best left out (`dense: {epochs: 0}`), so that both take the same number of steps.

No code of the authors is known, and their criterion and learning rates are not published where we
could read them; the exits are FastBERT's, whose idea the paper follows.
"""

from __future__ import annotations

from dataclasses import field

from fewer._validation.settings import settings
from fewer._validation.types import Positive
from fewer.core.cost import ModelSpec
from fewer.core.phase import Phase
from fewer.core.policy import Method
from fewer.core.stack import Stack, StackPolicy
from fewer.methods.exits import FastBERT
from fewer.methods.pruning import LTP

__all__ = ["MagicPyramid"]


@settings
class MagicPyramid:
    """Drop tokens by the attention they get, and leave early when the answer is certain."""

    pruning: Method = field(default_factory=lambda: LTP(target=0.5))
    exits: Method = field(default_factory=FastBERT)
    joint_epochs: Positive | None = None  # None: step by step

    @property
    def stack(self) -> Stack:
        """The two methods as one."""
        return Stack((self.pruning, self.exits))

    def build(self, spec: ModelSpec) -> StackPolicy:
        """Build both."""
        return self.stack.build(spec)

    def phases(self) -> tuple[Phase, ...]:
        """Return steps 2 to 4, or one phase for everything."""
        steps = self.stack.phases()
        if self.joint_epochs is None:
            return steps
        first, last = steps[0], steps[-1]
        return (
            Phase(
                "joint",
                first.apply,
                "all",
                self.joint_epochs,
                first.learning_rate,
                (_rate(first), _rate(last)),
                regularise=True,
                calibrate=True,
                holds_out=True,
                teacher=first.teacher,
            ),
        )


def _rate(phase: Phase) -> float | None:
    """Return the one rate at which a single method's policy learns."""
    rate = phase.policy_learning_rate
    return rate[0] if isinstance(rate, tuple) else rate
