"""Sparse Transformer, fixed pattern (Child et al., 2019, https://arxiv.org/abs/1904.10509).

    o_i = softmax over {j: floor(i / b) = floor(j / b)  or  j mod b >= b - c}, and the first token

The last c columns of each block are read by all tokens: they summarise the block. Each head has
both patterns, merged. The first token, which is [CLS] where a model has one, reads all and is read
by all. O(n (b + n c / b) d), which is O(n^1.5 d) where b grows with sqrt(n).

What differs from the arena's code, and why: attention is bidirectional, since the tasks classify
whole texts; theirs kept the causal mask of a language model. Only the pairs of the pattern are
multiplied; theirs multiplied all under a mask.
"""

from __future__ import annotations

from fewer._validation.settings import checked
from fewer._validation.types import Count
from fewer_lra.attentions.base import Attention, AttentionSpec, Heads, Mask, States
from fewer_lra.attentions.patterned import Pattern, attend

__all__ = ["SparseTransformerAttention"]


class SparseTransformerAttention(Attention):
    """Tokens read their block, the last columns of every block and the first token."""

    @checked
    def __init__(self, spec: AttentionSpec, *, block: Count = 50, summary: Count = 10) -> None:
        super().__init__(spec)
        self.pattern = Pattern(window=0, block=block, summary=summary, global_tokens="first")

    def forward(self, q: Heads, k: Heads, v: Heads, hidden: States, mask: Mask) -> Heads:
        """Attend."""
        return attend(q, k, v, mask, self.pattern, dropout=self.dropout)
