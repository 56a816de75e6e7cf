"""Block-Skim's own predictor: a small convolutional network that looks at attention."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer.core.cost import ModelSpec
from fewer.kernels.block_cnn import BlockCnnCall, Convolution, block_cnn_logits, supports
from fewer.methods.pruning.blocks import Blocks, Sight
from fewer.methods.pruning.predictor import Predictor

__all__ = ["AttentionPredictor"]

_KERNEL = 9  # weights of a 3 x 3 convolution


class AttentionPredictor(Predictor, nn.Sequential):
    """The paper's network: two convolutions, each normed, rectified and halved; then two logits.

    As a module it takes maps `(P, maps * H, block, block)`.
    """

    measures = True

    def __init__(self, sight: Sight, block: int, shape: ModelSpec) -> None:
        heads, maps = shape.heads, sight.count
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
        self.sight = sight
        self.looking = 2.0 * area * shape.hidden_size  # FLOPs of the attention of a pair of blocks
        self.block_cnn = 2.0 * (_KERNEL * convolved + heads * area // 16 * 2)  # of a block

    def judge(self, blocks: Blocks, wanted: Int[Tensor, "P"]) -> Float[Tensor, "P 2"]:
        """Look at the attention of these blocks, with the compiled kernel where it can.

        It knows no patterns.
        """
        tokens, sight = blocks.tokens, self.sight
        compiled = not self.training and tokens.pairs is None and supports(tokens.asking[0])
        if compiled and sight.pairs is not None:
            seen = *tokens.asking, tokens.gate
            return block_cnn_logits(
                BlockCnnCall(*seen, blocks.rows, sight.pairs(blocks, wanted), *self.folded())
            )
        with torch.autocast(tokens.hidden.device.type, enabled=False):
            maps = sight.see(blocks, wanted)
        found: Tensor = self(maps).float()
        return found

    def flops(self, blocks: Blocks, wanted: Int[Tensor, "P"]) -> Float[Tensor, "B"]:
        """Count the network, and the attention of the blocks, which is formed once more."""
        looked = self.sight.looked(blocks, wanted)
        spent = torch.zeros(blocks.tokens.grid[0], device=looked.device)
        return spent.index_add(0, blocks.text[wanted], self.block_cnn + self.looking * looked)

    def folded(self) -> tuple[Convolution, Convolution, Tensor, Tensor]:
        """Return the network as in eval mode, its norms as part of the convolutions."""
        wide, norm, _, _, narrow, other, _, _, _, last = self
        assert isinstance(last, nn.Linear)
        return _folded(wide, norm), _folded(narrow, other), last.weight, last.bias


def _folded(convolution: Any, norm: Any) -> Convolution:
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    bias = (convolution.bias - norm.running_mean) * scale + norm.bias
    return Convolution((convolution.weight * scale[:, None, None, None]).float(), bias.float())
