"""BigBird, internal anchors (Zaheer et al., NeurIPS 2020, https://arxiv.org/abs/2007.14062).

    o_i = softmax over {j: |B(i) - B(j)| <= 1  or  B(j) in {0, last}  or  B(j) in R(h, B(i))}
    B(i) = floor(i / b)        R: r blocks drawn for each block, head and layer

The first and the last block of a text read all and are read by all. O(n b (5 + r) d).

What differs from the arena's code, and why:

- Random blocks come from the whole text; theirs from the first 1024 tokens.
- They are drawn among blocks that are not read anyway, by the layer's number and the text's number
  of blocks: the same while training and after, whatever a text is batched with.
- Padding is masked and probabilities are dropped as everywhere; theirs multiplied by masks of -1e9,
  and dropped nothing.
"""

from __future__ import annotations

from fewer_lra.attentions.base import Attention, AttentionShape, Heads, Mask, States, positive
from fewer_lra.attentions.patterned import Pattern, attend

__all__ = ["BigBird"]


class BigBird(Attention):
    """Blocks read their neighbours, both ends and a few drawn blocks."""

    def __init__(self, shape: AttentionShape, *, block: int = 64, random: int = 3) -> None:
        super().__init__(shape)
        if random < 0:
            raise ValueError(f"random is {random}, wanted 0 drawn blocks or more")
        self.pattern = Pattern(
            window=1,
            block=positive("block", block),
            random=random,
            seed=shape.layer,
            global_tokens="ends",
        )

    def forward(self, q: Heads, k: Heads, v: Heads, hidden: States, mask: Mask) -> Heads:
        """Attend."""
        return attend(q, k, v, mask, self.pattern, dropout=self.dropout)
