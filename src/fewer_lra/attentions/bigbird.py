"""BigBird, internal anchors (Zaheer et al., NeurIPS 2020, https://arxiv.org/abs/2007.14062).

    o_i = softmax over {j: |B(i) - B(j)| <= 1  or  B(j) in {0, last}  or  B(j) in R(h, B(i))}
    B(i) = floor(i / b)        R: r random blocks per block, head and layer

The first and the last block of a text read all and are read by all. O(n b (5 + r) d).

What differs from the arena's code, and why:

- Random blocks come from the whole text; theirs from the first 1024 tokens.
- They are drawn among the blocks that are not read otherwise, from the layer index and the number
  of blocks of the text: the same in training and inference and in every batch.
- Padding is masked and dropout applied as in all attentions; theirs multiplied by masks of -1e9 and
  had no dropout.
"""

from __future__ import annotations

from fewer._validation.settings import checked
from fewer._validation.types import Count, Natural
from fewer_lra.attentions.base import Attention, AttentionSpec, Heads, Mask, States
from fewer_lra.attentions.patterned import Pattern, attend

__all__ = ["BigBirdAttention"]


class BigBirdAttention(Attention):
    """Blocks read their neighbours, the first and last block, and random blocks."""

    @checked
    def __init__(self, spec: AttentionSpec, *, block: Count = 64, random: Natural = 3) -> None:
        super().__init__(spec)
        self.pattern = Pattern(
            window=1,
            block=block,
            random=random,
            seed=spec.layer,
            global_tokens="ends",
        )

    def forward(self, q: Heads, k: Heads, v: Heads, hidden: States, mask: Mask) -> Heads:
        """Attend."""
        return attend(q, k, v, mask, self.pattern, dropout=self.dropout)
