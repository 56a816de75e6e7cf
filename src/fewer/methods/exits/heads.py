"""Exit heads: from the states of a layer to the logits of each text.

| name | made of | used by |
|---|---|---|
| `linear` | one linear map of [CLS] | |
| `pooled` | a pooler per exit, tanh(W [CLS] + b), then a linear map | DeeBERT, BERxiT |
| `shared` | one pooler for all exits, then a linear map per exit | PABEE |
| `mixed` | the shared pooler's outputs so far, mixed with a learned unit vector | Right Tool |
| `attentive` | a narrow attention over all tokens of the text, its query [CLS] | FastBERT |

Poolers start as copies of the model's own, where its head has one
(`fewer.hf.task_heads.pooler_of`: BERT, ALBERT, RoBERTa and their kin), else at random.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer.backbones.fast_linear import in_rows
from fewer.core.cost import ModelSpec
from fewer.core.decision import ExitOutput
from fewer.core.packed import Packed

__all__ = ["HEADS", "Heads", "first_rows", "in_dtype_of"]


class Heads(nn.Module):
    """What all heads have in common: classifiers on features of some width, and their FLOPs."""

    uses_previous_exits: ClassVar[bool] = False  # whether earlier exits' features are used

    def __init__(self, spec: ModelSpec, exits: int, width: int) -> None:
        super().__init__()
        self.width = width  # F, of the features
        self.classifiers = nn.ModuleList(nn.Linear(width, spec.labels) for _ in range(exits))
        self.per_text = 2.0 * width * spec.labels  # FLOPs of one exit, for each text
        self.per_token = 0.0  # and for each of its tokens

    def features(self, tokens: Packed, number: int) -> Tensor:
        """Make the features of exit `number` for each text in `tokens.texts`, `(b, F)`: [CLS]."""
        return first_states(tokens, self.classifiers[number])

    def classify(self, features: Tensor, number: int, previous: list[ExitOutput]) -> Tensor:
        """Logits `(b, C)` of texts from their features, and those of earlier exits."""
        logits: Tensor = self.classifiers[number](features)
        return logits

    def start_from(self, pooler: nn.Linear) -> None:
        """Copy the model's own pooler; heads without one have nothing to copy it to."""

    def flops(self, tokens: Packed, more: int = 0) -> Float[Tensor, "B"]:
        """FLOPs of one exit for each text of the batch; 0 for those that have exited.

        `more` multiply-adds per text come on top.
        """
        if tokens.grid[0] == 1 and tokens.alive is None:
            total = self.per_text + 2.0 * more + self.per_token * tokens.slot.numel()
            return torch.full((1,), total, device=tokens.slot.device)
        flops = torch.zeros(tokens.grid[0], device=tokens.slot.device)
        flops.index_fill_(0, tokens.texts, self.per_text + 2.0 * more)
        if not self.per_token:
            return flops
        alive = None if tokens.alive is None else tokens.alive.float()
        return flops + self.per_token * tokens.count(alive)


class _Pooled(Heads):
    def __init__(self, spec: ModelSpec, exits: int, poolers: int) -> None:
        super().__init__(spec, exits, spec.hidden_size)
        width = spec.hidden_size
        self.poolers = nn.ModuleList(nn.Linear(width, width) for _ in range(poolers))
        self.per_text += 2.0 * width**2

    def features(self, tokens: Packed, number: int) -> Tensor:
        pooler = self.poolers[number % len(self.poolers)]
        pooled: Tensor = torch.tanh(pooler(first_states(tokens, pooler)))
        return pooled

    def start_from(self, pooler: nn.Linear) -> None:
        with torch.no_grad():
            for parameter in self.poolers.parameters():
                parameter.copy_(pooler.bias if parameter.ndim == 1 else pooler.weight)


class _Mixed(_Pooled):
    """Right Tool: r_i = sum over j <= i of w_ij g_j with ||w_i|| = 1, then W_i r_i + b_i.

    The released code normalises w by making it a new parameter after each step, so that its
    optimiser still holds the old one and w never moves. Here the raw weights are learned, and
    normalised on the way.
    """

    uses_previous_exits = True

    def __init__(self, spec: ModelSpec, exits: int) -> None:
        super().__init__(spec, exits, 1)
        self.mixing = nn.ParameterList(nn.Parameter(torch.randn(n + 1)) for n in range(exits))

    def classify(self, features: Tensor, number: int, previous: list[ExitOutput]) -> Tensor:
        earlier = [output.features for output in previous if output.features is not None]
        pooled = torch.stack([*earlier, features])
        raw = self.mixing[number]
        weights = (raw / raw.norm()).to(pooled.dtype)
        mixed = (weights[:, None, None] * pooled).sum(0)
        return super().classify(mixed, number, previous)


class _Attentive(Heads):
    """FastBERT's classifier: narrow, attend, narrow again.

    Only the first token's row of the attention is used, so only [CLS] is a query. Nothing stands
    between
    its query map and the map of the keys, so the two are one: from [CLS] to what each of the two
    attention heads looks for in a token. Nor between the map of the values and the linear map after
    them, so these are one, after the weighted sum. Every function of the paper's head is one of
    these, at a third of the price, but not the other way round: a product of two maps through the
    W / 2 columns of an attention head has half the rank. The two sums over tokens are not counted
    as FLOPs.
    """

    def __init__(self, spec: ModelSpec, exits: int, heads: int = 2) -> None:
        wide = spec.hidden_size
        width = max(heads, min(128, wide // 3 // heads * heads))  # 128 in the paper, of 768
        super().__init__(spec, exits, width)
        self.attention_heads = heads

        def maps(inputs: int, outputs: int) -> nn.ModuleList:
            return nn.ModuleList(nn.Linear(inputs, outputs) for _ in range(exits))

        self.narrow, self.ask = maps(wide, width), maps(width, heads * width)
        self.mix = maps(heads * width, width)
        with torch.no_grad():
            for parameter in self.ask.parameters():
                parameter.mul_((heads / width) ** 0.5)  # what attention divides its scores by
        self.per_text += 2.0 * width**2 * heads * 2
        self.per_token = 2.0 * wide * width

    def features(self, tokens: Packed, number: int) -> Tensor:
        narrow = self.narrow[number]
        states = torch.tanh(in_rows(narrow, in_dtype_of(narrow, tokens.hidden)))  # (T, W)
        first = states.index_select(0, first_rows(tokens))  # (b, W)
        query = self.ask[number](first).unflatten(1, (self.attention_heads, -1))  # (b, h, W)
        place = _text_places(tokens)  # which of the b texts a token belongs to
        of_tokens = query if len(first) == 1 else query[place]
        scores = (of_tokens * states.unsqueeze(1)).sum(2).float()  # (T, h)
        weights = _softmax_by_text(scores, place, len(first), tokens).to(states.dtype)
        summed = torch.zeros_like(query).index_add(  # (b, h, W)
            0, place, weights.unsqueeze(2) * states.unsqueeze(1)
        )
        mixed: Tensor = torch.tanh(self.mix[number](summed.flatten(1)))
        return mixed


def first_rows(tokens: Packed) -> Int[Tensor, "b"]:
    """Rows of the first token of every text that has not exited."""
    return tokens.cu[:-1][tokens.texts]


def first_states(tokens: Packed, head: nn.Module) -> Float[Tensor, "b D"]:
    """States of the first token of every text that has not exited, for a head."""
    return in_dtype_of(head, tokens.hidden.index_select(0, first_rows(tokens)))


def in_dtype_of(head: nn.Module, states: Tensor) -> Tensor:
    """Cast states to a head's dtype: heads stay fp32 on a model in bf16, fp16 or fp64.

    As adapters of peft do; a head that was cast with its model computes in the model's dtype.
    """
    return states.to(next(head.parameters()).dtype)


def _text_places(tokens: Packed) -> Int[Tensor, "T"]:
    """Index of each token's text among those that have not exited; 0 for pruned tokens."""
    if tokens.grid[0] == 1:
        return tokens.sequence
    texts = tokens.texts
    place = torch.zeros(tokens.grid[0], dtype=torch.long, device=tokens.slot.device)
    place[texts] = torch.arange(len(texts), device=place.device)
    return place[tokens.sequence]


def _softmax_by_text(
    scores: Float[Tensor, "T h"], place: Tensor, texts: int, tokens: Packed
) -> Float[Tensor, "T h"]:
    """Weights of each text's tokens, which sum to 1; pruned tokens have none, fading ones less."""
    if tokens.alive is not None:
        scores = scores.masked_fill(~tokens.alive.unsqueeze(1), -torch.inf)
    none = scores.new_full((texts, scores.shape[1]), -torch.inf)
    if texts == 1:
        weights = (scores - scores.detach().amax(0)).exp()
    else:
        wide = place.unsqueeze(1).expand_as(scores)
        peak = none.scatter_reduce(0, wide, scores.detach(), "amax")
        weights = (scores - peak[place]).exp()
    if tokens.gate is not None:
        weights = weights * tokens.gate.unsqueeze(1)
    # in the order of the tokens, in one text as in many: no bit depends on the others
    total = torch.zeros_like(none).index_add(0, place, weights)
    return weights / (total if texts == 1 else total[place])


HEADS: dict[str, Callable[[ModelSpec, int], Heads]] = {
    "linear": lambda spec, exits: Heads(spec, exits, spec.hidden_size),
    "pooled": lambda spec, exits: _Pooled(spec, exits, exits),
    "shared": lambda spec, exits: _Pooled(spec, exits, 1),
    "mixed": _Mixed,
    "attentive": _Attentive,
}
