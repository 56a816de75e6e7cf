"""Merging: the tokens of a text that are pruned in a layer go on as one of them.

As the fused token of EViT (Liang et al., ICLR 2022, https://arxiv.org/abs/2202.07800): its state is
the mean of theirs, weighted by their scores. EViT appends it; here the best of them carries it, so
that no text grows.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fewer.core.decision import Decision
from fewer.core.packed import Packed
from fewer.kernels.cpu.merge import merge, supports
from fewer.methods.select import rank_by_text

__all__ = ["keep_merged"]

_LEAST_WEIGHT = 1e-6


def keep_merged(
    keep: Bool[Tensor, "T"],
    scores: Float[Tensor, "T"],
    tokens: Packed,
    **fields: Any,
) -> Decision:
    """Prune the tokens where `keep` is False, but the best of each text, which gets their mean.

    Protected tokens are not pruned, and those pruned or frozen before take no part. `fields`
    are others of the decision.
    """
    hidden, spared = tokens.hidden, tokens.roles.protected
    if tokens.gate is None and tokens.readers is None and supports(hidden):
        is_kept, states = merge(keep, spared, scores, hidden, tokens.cu, _LEAST_WEIGHT)
        return Decision.keep(is_kept, states=states, **fields)
    is_merged = ~keep & ~spared
    if tokens.gate is not None:
        is_merged = is_merged & (tokens.gate > 0)
    if tokens.readers is not None:
        is_merged = is_merged & tokens.readers
    rank = rank_by_text(scores.masked_fill(~is_merged, -torch.inf), tokens.sequence, tokens.cu)
    carries = is_merged & (rank == 0)
    weight = scores.float().clamp_min(_LEAST_WEIGHT) * is_merged
    total = tokens.count(weight).clamp_min(_LEAST_WEIGHT)
    share = (weight / total[tokens.sequence]).unsqueeze(1)
    empty = torch.zeros(tokens.grid[0], hidden.shape[1], device=hidden.device)
    mean = empty.index_add(0, tokens.sequence, share * hidden.float())
    states = torch.where(carries.unsqueeze(1), mean[tokens.sequence].to(hidden.dtype), hidden)
    return Decision.keep(keep | carries, states=states, **fields)
