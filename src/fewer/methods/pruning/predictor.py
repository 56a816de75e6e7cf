"""What says of the blocks of a passage how likely they are to hold any of the answer."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer.methods.pruning.blocks import Blocks

__all__ = ["Predictor"]


class Predictor(nn.Module):
    """A network of one layer of the model. It speaks after that layer."""

    measures: bool = False  # whether it looks at attention, pair by pair

    def judge(self, blocks: Blocks, wanted: Int[Tensor, "P"]) -> Float[Tensor, "P 2"]:
        """Say of the wanted blocks: logits of what may go, of what matters, in fp32.

        Wanted are all blocks with tokens that may leave, ascending.
        """
        raise NotImplementedError

    def flops(self, blocks: Blocks, wanted: Int[Tensor, "P"]) -> Float[Tensor, "B"]:
        """Count what saying so costs, for each text of the batch."""
        raise NotImplementedError
