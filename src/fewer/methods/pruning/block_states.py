r"""A predictor on hidden states: late interaction of passage and question in each layer.

Every token j of the passage attends to the tokens i that never leave ([CLS], the question), by C
narrow heads of the predictor's own, on the states h of the layer:

    match_jc    =  log sum over i of exp(q_jc . k_ic / sqrt(S))      how well j fits the question
    salience_jc =  w_c . h_j + u_c . context_j                       what it is, and what it fits
    block       =  [max and mean over its tokens of match, salience], how far these lie above the
                   mean of the text's blocks, and what they are of the two blocks on either side
    logits      =  MLP(block)

The model's attention tells where an answer lies only in its upper layers; words that fit those of
the question can be told from the first layer on.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer.core.cost import ModelSpec, linear_flops
from fewer.kernels import AttentionCall, kernel
from fewer.kernels.call import log_gate
from fewer.kernels.cpu.batch_invariant import prepacked_weight
from fewer.kernels.cpu.blocks import (
    BlockTable,
    LateInteraction,
    pool_blocks,
    score_blocks,
    supports,
)
from fewer.kernels.cpu.ops import Norm
from fewer.kernels.cpu.plain import has_plain_call
from fewer.methods.pruning.blocks import Blocks
from fewer.methods.pruning.predictor import Predictor

__all__ = ["StatePredictor"]

_HEADS, _SIZE = 4, 32  # C, S
_NEAR = (-2, -1, 1, 2)  # blocks around it that a block is scored with


class StatePredictor(Predictor):
    """Late interaction of the question's states with those of each block."""

    def __init__(self, spec: ModelSpec, hints: int = 0) -> None:
        super().__init__()
        width, joined = _HEADS * _SIZE, 2 * (2 * _HEADS + hints) * (2 + len(_NEAR))
        self.norm = nn.LayerNorm(spec.hidden_size)
        self.passage = nn.Linear(spec.hidden_size, width + _HEADS)  # q and w
        self.question = nn.Linear(spec.hidden_size, 2 * width)  # k and v
        self.context = nn.Linear(width, _HEADS)  # u
        self.last = nn.Sequential(
            nn.Linear(joined, joined // 2), nn.GELU(), nn.Linear(joined // 2, 2)
        )

    def score_blocks(
        self, blocks: Blocks, index: Int[Tensor, "P"], hints: Float[Tensor, "T E"] | None = None
    ) -> Float[Tensor, "P 2"]:
        """Match the question with these blocks; hints are pooled as match and salience are."""
        gate, table, hidden = blocks.tokens.gate, blocks.table, blocks.tokens.hidden
        compiled = self._compiled() if gate is None and hidden.dtype is torch.float32 else None
        if compiled is not None and supports(hidden):
            return score_blocks(compiled, hidden, table, hints)
        features = self._match(blocks)
        if hints is not None:
            features = torch.cat((features, hints[table.passage].float()), 1)
        if gate is None and supports(features):
            places = table.place, table.prunable_number, table.prunable_text
            joined = pool_blocks(features, *places, _NEAR)
        else:
            gate = None if gate is None else gate[table.passage]
            pooled = _pool(features, table.place, len(index), gate)
            centred = pooled - _means(pooled, table.prunable_text)
            joined = torch.cat((pooled, centred, *_neighbours(pooled, table)), 1)
        logits: Tensor = self.last(joined.to(self.norm.weight.dtype)).float()
        return logits

    def flops(self, blocks: Blocks, index: Int[Tensor, "P"]) -> Float[Tensor, "B"]:
        """Count projections, attention and the last network; pooling is not counted."""
        counts = blocks.table.counts
        tokenwise = linear_flops(self.passage, self.context), linear_flops(self.question)
        each = 4.0 * _HEADS * _SIZE, *tokenwise, linear_flops(self.last)
        return (counts * counts.new_tensor(each)[:, None]).sum(0)

    def _compiled(self) -> LateInteraction | None:
        """Return the maps as the compiled kernels have them; `None` where plain torch computes."""
        inner, gelu, last = self.last
        maps = self.passage, self.question, self.context, inner, last
        weights = tuple(weight for module in maps if (weight := prepacked_weight(module)))
        plain = type(self.norm) is nn.LayerNorm and type(gelu) is nn.GELU
        if len(weights) < len(maps) or not plain or gelu.approximate != "none":
            return None
        if not all(map(has_plain_call, (self.norm, gelu, self.last))):
            return None
        return LateInteraction(Norm.from_module(self.norm), weights, _HEADS, _SIZE, _NEAR)

    def _match(self, blocks: Blocks) -> Float[Tensor, "Tp 2*C"]:
        """Compute how well each token fits the question, and its salience."""
        table = blocks.table
        question, question_cu = table.questions
        hidden = self.norm(blocks.tokens.hidden.to(self.norm.weight.dtype))
        width = _HEADS * _SIZE
        query, salience = self.passage(hidden[table.passage]).split((width, _HEADS), -1)
        key, value = self.question(hidden[question]).split(width, -1)
        query, key, value = (
            projected.unflatten(-1, (_HEADS, _SIZE)) for projected in (query, key, value)
        )
        cu = table.passage_cu, question_cu
        call = AttentionCall(query, key, value, *cu, needs_logsumexp=True, training=self.training)
        attended = kernel("auto")(call)
        assert attended.logsumexp is not None
        salience = salience + self.context(attended.context)
        return torch.cat((attended.logsumexp.float(), salience.float()), 1)


def _pool(
    features: Float[Tensor, "Tp F"], place: Int[Tensor, "Tp"], count: int, gate: Tensor | None
) -> Float[Tensor, "P 2*F"]:
    """Pool tokens into the blocks at `place`, each as far as it still takes part."""
    weight = torch.ones_like(place, dtype=torch.float32) if gate is None else gate.float()
    gated = features if gate is None else features + log_gate(gate)[:, None]
    maxima = features.new_zeros(count, features.shape[1]).scatter_reduce(
        0, place[:, None].expand_as(features), gated, "amax", include_self=False
    )
    total = features.new_zeros(count).index_add(0, place, weight)
    sums = torch.zeros_like(maxima).index_add(0, place, features * weight[:, None])
    return torch.cat((maxima, sums / total.clamp_min(1e-6)[:, None]), 1)


def _neighbours(values: Float[Tensor, "P F"], table: BlockTable) -> list[Float[Tensor, "P F"]]:
    """Return to each block the values of those near it, 0 where none of these is there."""
    number, text = table.prunable_number, table.prunable_text
    neighbours = []
    for step in _NEAR:
        place = torch.searchsorted(number, number + step).clamp_max(len(number) - 1)
        exists = (number[place] == number + step) & (text[place] == text)
        neighbours.append(values[place].masked_fill(~exists[:, None], 0.0))
    return neighbours


def _means(values: Float[Tensor, "P F"], text: Int[Tensor, "P"]) -> Float[Tensor, "P F"]:
    """Return to each row the mean over the rows of its text; `text` is ascending."""
    _, index, counts = text.unique_consecutive(return_inverse=True, return_counts=True)
    sums = values.new_zeros(len(counts), values.shape[1]).index_add(0, index, values)
    means: Tensor = (sums / counts[:, None])[index]
    return means
