"""What is seen of a pair between layers: its states, and how alike the states of both texts are.

Of a query with tokens i and a document with tokens j, h their states:

- x, the first state, and m, the mean of all states, which say what the model makes of the pair;
- q * d, the product, number by number, of the two texts' mean states, and their cosine;
- the mean over i of the largest cosine of h_i and any h_j, the late interaction of ColBERT (Khattab
  and Zaharia, 2020, https://arxiv.org/abs/2004.12832).

The last two lines tell most before the first layer and early on, where a pair has hardly been
compared; the first tells most in late layers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from fewer.core.packed import Packed
from fewer.methods.exits.ridge import text_features

__all__ = ["pair_features", "pair_flops", "pair_width"]


def pair_width(hidden_size: int) -> int:
    """Return the number of features."""
    return 3 * hidden_size + 2


def pair_features(tokens: Packed) -> Float[Tensor, "b F"]:
    """Join the features of each text that is still read, in fp32; texts alone are like nothing."""
    query, document = (_pad(tokens, part) for part in _split(tokens))
    first, second = query.mean, document.mean
    cosines = normalize(query.states, dim=-1) @ normalize(document.states, dim=-1).transpose(1, 2)
    cosines = cosines.masked_fill(~document.is_token[:, None, :], -1.0)
    best = cosines.amax(2) if cosines.shape[2] else cosines.new_full(cosines.shape[:2], -1.0)
    count = query.is_token.sum(1).clamp_min(1)
    late = (best * query.is_token).sum(1) / count
    alike = torch.stack((cosine_similarity(first, second), late), 1)
    return torch.cat((text_features(tokens), first * second, alike), 1)


def pair_flops(tokens: Packed) -> Float[Tensor, "b"]:
    """FLOPs of comparing the tokens of both texts, for each text that is still read."""
    query, document = (tokens.count(part.float())[tokens.texts] for part in _split(tokens))
    return 2.0 * tokens.hidden.shape[1] * query * document


class _Part(NamedTuple):
    """The first or the second text of each pair, padded."""

    states: Float[Tensor, "b N D"]  # 0 where there is no token
    is_token: Bool[Tensor, "b N"]

    @property
    def mean(self) -> Float[Tensor, "b D"]:
        """The mean state."""
        return self.states.sum(1) / self.is_token.sum(1, keepdim=True).clamp_min(1)


def _split(tokens: Packed) -> tuple[Bool[Tensor, "T"], Bool[Tensor, "T"]]:
    """Return which tokens are of first texts, and which of second ones.

    Neither has the first token, nor the separator at the end of each text.
    """
    second = tokens.roles.second_text
    assert second is not None  # packing finds it for policies whose inputs say so
    follows = torch.cat((second[1:], second[:1]))
    ends = torch.zeros_like(second)
    ends[tokens.cu[1:][tokens.cu.diff() > 0] - 1] = True
    inner = ~ends & (tokens.placement.column > 0) & ~(follows & ~second)
    if tokens.alive is not None:
        inner = inner & tokens.alive
    return inner & ~second, inner & second


def _pad(tokens: Packed, which: Bool[Tensor, "T"]) -> _Part:
    """Put the states of these tokens in a row for each text that is still read."""
    rows = which.nonzero().squeeze(1)
    texts = tokens.texts
    place = torch.searchsorted(texts, tokens.sequence[rows])
    count = torch.bincount(place, minlength=len(texts))
    start = count.cumsum(0) - count
    column = torch.arange(len(rows), device=rows.device) - start[place]
    width = int(count.max()) if len(count) else 0
    states = tokens.hidden.new_zeros(len(texts), width, tokens.hidden.shape[1], dtype=torch.float32)
    states[place, column] = tokens.hidden[rows].float()
    is_token = torch.arange(width, device=rows.device) < count[:, None]
    return _Part(states, is_token)
