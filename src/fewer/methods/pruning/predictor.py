"""Predictors of which blocks of a passage hold any of the answer."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer.methods.pruning.blocks import Blocks

__all__ = ["Predictor"]


class Predictor(nn.Module):
    """A network that is computed after one layer of the model."""

    needs_pairs: bool = False  # whether it reads attention, pair by pair

    def score_blocks(
        self, blocks: Blocks, index: Int[Tensor, "P"], hints: Float[Tensor, "T E"] | None = None
    ) -> Float[Tensor, "P 2"]:
        """Compute logits of irrelevant and relevant for these blocks, in fp32.

        They are all blocks with tokens that may be pruned, ascending. `hints` are numbers of each
        token from elsewhere, for predictors that were made for so many.
        """
        raise NotImplementedError

    def flops(self, blocks: Blocks, index: Int[Tensor, "P"]) -> Float[Tensor, "B"]:
        """Count the FLOPs of these scores, for each text of the batch."""
        raise NotImplementedError
