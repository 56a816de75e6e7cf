"""The one door of the attentions that read by a fixed pattern of pairs.

TEMPORARY: `Pattern` and the dense masks below stand in for `fewer.kernels.pattern` and the blocked
kernel, which has the cost that the patterns promise. The signature of `attend` stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from fewer.kernels.call import never
from fewer.lra.attentions.base import Heads, Mask

__all__ = ["Pattern", "attend"]


@dataclass(frozen=True)
class Pattern:
    """Stands in for `fewer.kernels.pattern.Pattern`, which says the same more fully."""

    window: int
    block: int = 1
    random: int = 0
    seed: int = 0
    anchors: Literal["none", "first", "ends"] = "none"
    summary: int = 0


def attend(
    q: Heads,
    k: Heads,
    v: Heads,
    mask: Mask,
    pattern: Pattern,
    far: tuple[Heads, Heads] | None = None,
    dropout: float = 0.0,
) -> Heads:
    """Attend to the pairs of a pattern.

    `far` are keys and values as anchors read them, where a method has other projections for these;
    the queries of anchors are in `q`.
    """
    pairs = [_pairs(pattern, int(n), q.shape[1], q.shape[2]) for n in mask.sum(1)]
    seen = torch.stack(pairs).to(q.device) & mask[:, None, None]  # (B, H, n, n)
    context = _dense(q, k, v, seen, dropout)
    if far is None:
        return context
    # anchors are the first token wherever there are other projections
    anchor = _dense(q[:, :, :1], *far, mask[:, None, None], dropout)
    return torch.cat((anchor, context[:, :, 1:]), 2)


def _dense(q: Heads, k: Heads, v: Heads, seen: Bool[Tensor, "..."], dropout: float) -> Heads:
    scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
    weights = scores.masked_fill(~seen, never(scores.dtype)).softmax(-1)
    return F.dropout(weights, dropout).to(v.dtype) @ v


def _pairs(pattern: Pattern, length: int, heads: int, columns: int) -> Bool[Tensor, "H n n"]:
    """Which pairs a text of `length` tokens has, from the pattern's definition."""
    column = torch.arange(columns)
    block, last = column // pattern.block, (length - 1) // pattern.block
    anchor = torch.zeros(columns, dtype=torch.bool)
    if pattern.anchors == "first":
        anchor = column == 0
    elif pattern.anchors == "ends":
        anchor = (block == 0) | (block == last)
    heard = anchor | (column % pattern.block >= pattern.block - pattern.summary)
    near = (block[:, None] - block).abs() <= pattern.window
    pairs = (near | anchor[:, None] | heard).expand(heads, -1, -1)
    if not pattern.random:
        return pairs
    inner = block.clamp_max(last)
    return pairs | _drawn(pattern, last + 1, heads)[:, inner][:, :, inner]


def _drawn(pattern: Pattern, blocks: int, heads: int) -> Bool[Tensor, "H blocks blocks"]:
    """Draw the blocks that each block reads beside its window and the ends."""
    at: Int[Tensor, "blocks"] = torch.arange(blocks)
    taken = (at[:, None] - at).abs() <= pattern.window
    taken[:, [0, -1]] = True
    generator = torch.Generator().manual_seed(pattern.seed * 1_000_003 + blocks)
    lots = torch.rand(heads, blocks, blocks, generator=generator).masked_fill_(taken, -1.0)
    chance, found = lots.topk(min(pattern.random, blocks), dim=-1)
    return torch.zeros_like(lots).scatter_(-1, found, (chance >= 0).float()).bool()
