"""Local attention by blocks, the arena's simplest (https://arxiv.org/abs/2011.04006, section 3.2).

    o_i = softmax over {j: floor(i / b) = floor(j / b)}, and the first token

The first token, which is [CLS] where a model has one, reads all and is read by all. O(n b d).

What differs from the arena's code, and why:

- Blocks are neighbours. Theirs cut the wrong factor of a reshape, so a block was every n/b-th
  token, under the padding mask of neighbours.
- The first token is global; [CLS] saw b - 1 tokens of a text there.
"""

from __future__ import annotations

from fewer._validation.settings import checked
from fewer._validation.types import Count
from fewer_lra.attentions.base import Attention, AttentionSpec, Heads, Mask, States
from fewer_lra.attentions.patterned import Pattern, attend

__all__ = ["LocalAttention"]


class LocalAttention(Attention):
    """Tokens read their block and the first token."""

    @checked
    def __init__(self, spec: AttentionSpec, *, block: Count = 50) -> None:
        super().__init__(spec)
        self.pattern = Pattern(window=0, block=block, global_tokens="first")

    def forward(self, q: Heads, k: Heads, v: Heads, hidden: States, mask: Mask) -> Heads:
        """Attend."""
        return attend(q, k, v, mask, self.pattern, dropout=self.dropout)
