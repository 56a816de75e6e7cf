"""Longformer (Beltagy, Peters, Cohan, 2020, https://arxiv.org/abs/2004.05150).

Token i reads the tokens whose distance in the text is at most w/2, and the global tokens; global
tokens read all and are read by all:

    i reads j   if   |i - j| <= w/2   or   i is global   or   j is global

Cost grows with n * w instead of n^2. Which tokens are global is the task's: `[CLS]` for a text, the
question for an answer within a passage, none for tags.

What differs from the authors' code, and why:

- The window is that of transformers: w counts both sides. Theirs counts one.
- Distances are those of the text as it came, also where tokens have left it.
- Any number of tokens will do; theirs is padded to a multiple of the window.
- As a method on a model that has none, global tokens use the model's own projections: separate ones
  would start as copies of these. A published Longformer checkpoint brings its own, which are used.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, MultipleOf

from fewer._validation.settings import settings
from fewer._validation.types import NonNegative, Whole
from fewer.core.cost import ModelSpec
from fewer.core.phase import Phase
from fewer.kernels import Pattern
from fewer.methods.attention.patterned import (
    GlobalTokens,
    PatternPolicy,
    global_tokens_for,
    sparse_phase,
)

__all__ = ["Longformer"]


@settings
class Longformer:
    """Let each token read a window and the global tokens."""

    # w, tokens, both sides together
    attention_window: Annotated[Whole, Ge(2), MultipleOf(2)] = 512
    global_tokens: GlobalTokens = "auto"
    epochs: NonNegative = 2.0
    learning_rate: NonNegative = 3e-5

    def build(self, spec: ModelSpec) -> PatternPolicy:
        """Make the policy, which learns nothing."""
        rule = global_tokens_for(self.global_tokens, spec)
        pattern = Pattern(self.attention_window // 2, global_tokens=rule)
        return PatternPolicy((pattern,) * spec.num_layers, spec)

    def phases(self) -> tuple[Phase, ...]:
        """Train the model as it is to be used."""
        return sparse_phase(self.epochs, self.learning_rate)
