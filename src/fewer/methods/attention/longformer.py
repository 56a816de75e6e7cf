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

from dataclasses import dataclass
from typing import get_args

from fewer._validation.names import check_known
from fewer.core.cost import ModelSpec
from fewer.core.policy import Phase
from fewer.kernels import Pattern
from fewer.methods.attention.patterned import GlobalTokens, PatternPolicy, anchors_for, sparse_phase

__all__ = ["Longformer"]


@dataclass(frozen=True, kw_only=True)
class Longformer:
    """Let each token read a window and the global tokens."""

    attention_window: int = 512  # w, tokens, both sides together
    global_tokens: GlobalTokens = "auto"
    epochs: float = 2.0
    learning_rate: float = 3e-5

    def __post_init__(self) -> None:
        """Refuse a window that is no window, and unknown global tokens."""
        check_known(self.global_tokens, get_args(GlobalTokens), "global_tokens")
        if self.attention_window < 2 or self.attention_window % 2:
            raise ValueError(
                f"attention_window is {self.attention_window}, wanted an even number of tokens, 2 "
                "or more: half of them on either side"
            )

    def build(self, shape: ModelSpec) -> PatternPolicy:
        """Make the policy, which learns nothing."""
        anchors = anchors_for(self.global_tokens, shape)
        pattern = Pattern(self.attention_window // 2, global_tokens=anchors)
        return PatternPolicy((pattern,) * shape.num_layers, shape)

    def phases(self) -> tuple[Phase, ...]:
        """Train the model as it is to be used."""
        return sparse_phase(self.epochs, self.learning_rate)
