"""Block-Skim's own predictor: a small convolutional network on attention maps."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer.core.cost import ModelSpec
from fewer.methods.pruning.block_cnn import BlockCnnCall, Convolution, block_cnn_logits, supports
from fewer.methods.pruning.blocks import AttentionScope, Blocks
from fewer.methods.pruning.predictor import Predictor

__all__ = ["AttentionPredictor"]

_KERNEL = 9  # weights of a 3 x 3 convolution


class AttentionPredictor(Predictor, nn.Sequential):
    """The paper's network: two convolutions, each normed, rectified and halved; then two logits.

    As a module it takes maps `(P, maps * H, block, block)`.
    """

    needs_pairs = True

    def __init__(self, scope: AttentionScope, block: int, spec: ModelSpec) -> None:
        heads, maps = spec.heads, scope.count
        super().__init__(
            nn.Conv2d(maps * heads, heads, 3, padding=1),
            nn.BatchNorm2d(heads),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(heads, heads, 3, padding=1),
            nn.BatchNorm2d(heads),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(heads * (block // 4) ** 2, 2),
        )
        area = block**2
        convolved = heads * (maps * heads * area + heads * area // 4)
        self.scope = scope
        relative = max((sum(layer.relative or ()) for layer in spec.layers), default=0.0)
        # of the attention of two blocks
        self.pair_flops = 2.0 * area * spec.hidden_size + block * relative
        self.cnn_flops = 2.0 * (_KERNEL * convolved + heads * area // 16 * 2)  # per block

    def score_blocks(
        self, blocks: Blocks, index: Int[Tensor, "P"], hints: Float[Tensor, "T E"] | None = None
    ) -> Float[Tensor, "P 2"]:
        """Score the attention maps of these blocks, by the compiled kernel where it can.

        It computes no sparse patterns and no relative scores.
        """
        tokens, evidence, scope = blocks.tokens, blocks.evidence, self.scope
        inputs = evidence.attention_inputs
        is_plain = evidence.pairs is None and evidence.relative is None
        compiled = not self.training and is_plain and supports(inputs[0])
        if compiled and scope.pairs is not None:
            pairs = scope.pairs(blocks, index)
            attended = *inputs, tokens.gate
            return block_cnn_logits(BlockCnnCall(*attended, blocks.rows, pairs, *self.folded()))
        with torch.autocast(tokens.hidden.device.type, enabled=False):
            maps = scope.form(blocks, index)
        logits: Tensor = self(maps.to(self.dtype)).float()
        return logits

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the network's weights."""
        return next(self.parameters()).dtype

    def flops(self, blocks: Blocks, index: Int[Tensor, "P"]) -> Float[Tensor, "B"]:
        """Count the network, and the attention of the blocks, which is formed once more."""
        pairs = self.scope.count_pairs(blocks, index)
        flops = torch.zeros(blocks.tokens.grid[0], device=pairs.device)
        return flops.index_add(
            0, blocks.table.text[index], self.cnn_flops + self.pair_flops * pairs
        )

    def folded(self) -> tuple[Convolution, Convolution, Tensor, Tensor]:
        """Return the network as in eval mode, its norms as part of the convolutions."""
        first, first_norm, _, _, second, second_norm, _, _, _, last = self
        assert isinstance(last, nn.Linear)
        return _folded(first, first_norm), _folded(second, second_norm), last.weight, last.bias


def _folded(convolution: Any, norm: Any) -> Convolution:
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    bias = (convolution.bias - norm.running_mean) * scale + norm.bias
    return Convolution((convolution.weight * scale[:, None, None, None]).float(), bias.float())
