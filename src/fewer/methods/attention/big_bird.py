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

from dataclasses import dataclass
from typing import Literal, get_args

from fewer._validation.names import check_known
from fewer.core.cost import ModelSpec
from fewer.core.policy import Phase
from fewer.kernels import Pattern
from fewer.kernels.pattern import GlobalTokenRule
from fewer.methods.attention.patterned import GlobalTokens, PatternPolicy, anchors_for, sparse_phase

__all__ = ["BigBird"]


@dataclass(frozen=True, kw_only=True)
class BigBird:
    """Let each block read its neighbours, blocks that are drawn, and the global tokens."""

    block_size: int = 64  # b, tokens
    num_random_blocks: int = 3  # r, for each block, head and layer
    # "ends" is ITC, the first and the last block; the others are ETC, tokens of a role
    global_tokens: Literal["ends"] | GlobalTokens = "ends"
    epochs: float = 2.0
    learning_rate: float = 3e-5

    def __post_init__(self) -> None:
        """Refuse blocks that are none, and unknown global tokens."""
        check_known(self.global_tokens, ("ends", *get_args(GlobalTokens)), "global_tokens")
        if self.block_size < 2 or self.num_random_blocks < 0:
            raise ValueError(
                f"block_size is {self.block_size}, num_random_blocks {self.num_random_blocks}; "
                "wanted blocks of 2 tokens or more, and 0 or more that are drawn"
            )

    def build(self, shape: ModelSpec) -> PatternPolicy:
        """Make the policy, which learns nothing."""
        wanted = self.global_tokens
        anchors: GlobalTokenRule = "ends" if wanted == "ends" else anchors_for(wanted, shape)
        return PatternPolicy(
            [
                Pattern.bigbird(self.block_size, self.num_random_blocks, layer, anchors)
                for layer in range(shape.num_layers)
            ],
            shape,
        )

    def phases(self) -> tuple[Phase, ...]:
        """Train the model as it is to be used."""
        return sparse_phase(self.epochs, self.learning_rate)
