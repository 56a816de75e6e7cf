"""Ranking distillation: early layers learn to rank tokens as a teacher's last layer does.

The loss of ToP (Li et al., KDD 2023, https://arxiv.org/abs/2306.14393) is ARP loss 2 of the
LambdaLoss framework (Wang et al., CIKM 2018), in a text over the n = min(20, tokens) tokens that
the teacher ranks highest. With the relevance y = n - 1, ..., 0 by the teacher's rank and the
student's scores s it is

    1 / n^2  *  sum over i, j with y_i > y_j of (y_i - y_j) * log2(1 + exp(s_j - s_i))

and the mean over texts, summed over the layers of the first third but layer 0.

What differs from the authors' code: where a text of a batch has fewer than 20 tokens, theirs fills
up with padding, of score and relevance 0; here n is that of the text. Their weight decays while
their constraint warms up; ours is constant.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from fewer.core.packed import text_starts
from fewer.core.trace import LayerTrace, Trace
from fewer.methods.select import rank_by_text

__all__ = ["TOP", "arp2_loss", "early_layers", "ranking_loss"]

TOP = 20  # tokens of a text that are compared


def early_layers(num_layers: int) -> range:
    """Return the layers whose scores are taught: the first third but layer 0, one at least."""
    return range(1, max(2, num_layers // 3))


def ranking_loss(student: Trace, teacher: Trace) -> Float[Tensor, ""]:
    """Sum the loss over the student's early layers.

    Both traces hold the attention received: the student's of its early layers, the teacher's of
    its last. The first token of each text, [CLS], is not compared.
    """
    last = teacher.layers[-1]
    losses = [
        _layer_loss(student.layers[layer], last, student.grid)
        for layer in early_layers(len(teacher.layers))
        if layer < len(student.layers)  # a pass may stop early
    ]
    return torch.stack(losses).sum() if losses else torch.zeros((), device=student.device)


def arp2_loss(scores: Float[Tensor, "B K"], count: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
    """Return the loss of each text, whose first `count` scores are in the order of the teacher."""
    rank = torch.arange(scores.shape[1], device=scores.device)
    gain = (rank - rank[:, None]).clamp_min(0)  # y_i - y_j, where i ranks before j
    is_compared = (rank < count[:, None])[:, None]  # j; then i, which ranks before it, is too
    margin = scores[:, :, None] - scores[:, None]
    pairs = functional.softplus(-margin) / math.log(2.0)
    total = (gain * pairs * is_compared).sum((1, 2))
    return total / count.clamp_min(1) ** 2


def _layer_loss(student: LayerTrace, teacher: LayerTrace, grid: tuple[int, int]) -> Tensor:
    """Return the mean loss over the texts, of the tokens that the student still has."""
    assert student.received is not None
    assert student.slot is not None
    assert teacher.received is not None
    assert teacher.slot is not None
    rows = (student.slot % grid[1] > 0).nonzero().squeeze(1)
    slot, scores = student.slot[rows], student.received.float()[rows]
    sequence = slot // grid[1]
    cu = text_starts(sequence, grid[0])
    target = teacher.received[torch.searchsorted(teacher.slot, slot)]
    rank = rank_by_text(target.float(), sequence, cu)
    top = rank < TOP
    place = sequence[top] * TOP + rank[top]
    ordered = scores.new_zeros(grid[0] * TOP).index_copy(0, place, scores[top])
    return arp2_loss(ordered.view(-1, TOP), cu.diff().clamp_max(TOP)).mean()
