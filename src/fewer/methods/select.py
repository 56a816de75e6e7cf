"""Select tokens by a score, text by text: ranks, top-k, thresholds, keep at least so many.

Of equal scores the earlier token ranks first, so that no answer depends on the order of a sort or
on the other texts of the batch. Protected tokens rank before all others, pruned ones after them.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fewer.core.packed import Packed

__all__ = ["keep_above", "keep_top", "rank_by_text", "rank_in_text"]


def rank_in_text(scores: Float[Tensor, "T"], tokens: Packed) -> Int[Tensor, "T"]:
    """Return each token's rank within its text: 0 for the highest score."""
    return rank_by_text(_with_roles(scores.detach(), tokens), tokens.sequence, tokens.cu)


def rank_by_text(
    scores: Float[Tensor, "T"], sequence: Int[Tensor, "T"], cu: Int[Tensor, "B+1"]
) -> Int[Tensor, "T"]:
    """Return ranks as `rank_in_text` does, of rows that no `Packed` holds, whatever their roles."""
    order = scores.argsort(descending=True, stable=True)
    order = order[sequence[order].argsort(stable=True)]  # text by text
    place = torch.empty_like(order).index_copy(
        0, order, torch.arange(len(order), device=order.device)
    )
    return place - cu[sequence]


def keep_top(
    scores: Float[Tensor, "T"], tokens: Packed, count: Int[Tensor, "B"] | int
) -> Bool[Tensor, "T"]:
    """Return the `count` tokens of each text with the highest scores, protected ones among them."""
    rank = rank_in_text(scores, tokens)
    return rank < (count if isinstance(count, int) else count[tokens.sequence])


def keep_above(
    scores: Float[Tensor, "T"], tokens: Packed, threshold: Tensor | float, *, at_least: int = 0
) -> Bool[Tensor, "T"]:
    """Return the tokens that score `threshold` or more, and the `at_least` highest of each text."""
    is_above = scores >= threshold
    return is_above | keep_top(scores, tokens, at_least) if at_least else is_above


def _with_roles(scores: Tensor, tokens: Packed) -> Tensor:
    scores = scores.float().masked_fill(tokens.roles.protected, torch.inf)
    return scores if tokens.alive is None else scores.masked_fill(~tokens.alive, -torch.inf)
