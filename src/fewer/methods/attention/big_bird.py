"""BigBird (Zaheer et al., NeurIPS 2020, https://arxiv.org/abs/2007.14062).

The text is cut into blocks of b tokens. The queries of a block read

    the block and its two neighbours; r blocks drawn for each head and layer; the global tokens

and global tokens read all and are read by all. ITC: the first and the last block are global. ETC:
tokens of a global role are - here the first token, or the question -, and none are drawn in the
authors' best models. Cost grows with n * b.

What differs from the authors' code, and why:

- Blocks are drawn from the whole text; theirs from its first 1,024 tokens at the usual lengths.
- The last block is the last of each text; theirs is that of the padded batch.
- A text of up to (5 + 2 r) b tokens is read in full, as in transformers, but each text for itself.
- ETC's additional global tokens, which a pretrained model has no embeddings for, are tokens of the
  text.
"""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge

from fewer._validation.settings import settings
from fewer._validation.types import Natural, NonNegative, Whole
from fewer.core.cost import ModelSpec
from fewer.core.phase import Phase
from fewer.kernels import Pattern
from fewer.kernels.pattern import GlobalTokenRule
from fewer.methods.attention.patterned import (
    GlobalTokens,
    PatternPolicy,
    global_tokens_for,
    sparse_phase,
)

__all__ = ["BigBird"]


@settings
class BigBird:
    """Let each block read its neighbours, blocks that are drawn, and the global tokens."""

    block_size: Annotated[Whole, Ge(2)] = 64  # b, tokens
    num_random_blocks: Natural = 3  # r, for each block, head and layer
    # "ends" is ITC, the first and the last block; the others are ETC, tokens of a role
    global_tokens: Literal["ends", GlobalTokens] = "ends"
    epochs: NonNegative = 2.0
    learning_rate: NonNegative = 3e-5

    def build(self, spec: ModelSpec) -> PatternPolicy:
        """Make the policy, which learns nothing."""
        choice = self.global_tokens
        rule: GlobalTokenRule = "ends" if choice == "ends" else global_tokens_for(choice, spec)
        return PatternPolicy(
            [
                Pattern.bigbird(self.block_size, self.num_random_blocks, layer, rule)
                for layer in range(spec.num_layers)
            ],
            spec,
        )

    def phases(self) -> tuple[Phase, ...]:
        """Train the model as it is to be used."""
        return sparse_phase(self.epochs, self.learning_rate)
