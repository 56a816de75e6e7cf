"""Static schedules: how many tokens of each text stay in each layer, known before the first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fewer.core.decision import Decision, View
from fewer.core.packed import Packed
from fewer.methods.select import keep_top

__all__ = ["ROUNDING", "TokenCounts", "share_of", "whole_above", "whole_below"]

# Shares are saved in fp32: 0.8 of 5 tokens are 4.00000006, which must not round up to 5.
ROUNDING = 1e-6


def whole_below(number: float) -> int:
    """Round down, but up to the next whole number where that is no more than rounding away."""
    return int(number * (1 + ROUNDING))


def whole_above(number: float) -> int:
    """Round up, but down to the next whole number where that is no more than rounding away."""
    return -int(-number * (1 - ROUNDING) // 1)


def share_of(share: float, length: int, at_least: int = 1) -> int:
    """Return a share of a text's tokens, rounded up, at least so many as long as there are."""
    return min(length, max(at_least, whole_above(share * length)))


@dataclass(frozen=True)
class TokenCounts:
    """The tokens of each text that stay after each layer of one pass, protected ones among them.

    The host knows them before the first layer, so that it need not wait for a GPU in each.
    """

    counts: Int[Tensor, "L B"]  # on the device
    totals: tuple[int, ...]  # tokens of the batch that come in, then those after each layer

    @classmethod
    def plan(
        cls,
        tokens: Packed,
        settings: Float[Tensor, "S"],
        counts_of: Callable[[Sequence[float], int], Sequence[int]],
    ) -> TokenCounts:
        """Plan a pass: `counts_of(settings, length)` gives the tokens that a text keeps per layer.

        A GPU is looked at once, for the settings and the protected tokens of each text together.
        """
        protected = tokens.count(tokens.roles.protected.float())
        lengths = tokens.placement.host_lengths
        values = torch.cat((settings.detach().float().flatten(), protected)).tolist()
        numbers, spared = values[: -len(lengths)], values[-len(lengths) :]
        counts_by_text = [
            [min(length, max(count, int(least))) for count in counts_of(numbers, length)]
            for length, least in zip(lengths, spared, strict=True)
        ]
        layers = list(zip(*counts_by_text, strict=True))
        totals = sum(lengths), *(sum(counts) for counts in layers)
        device = tokens.slot.device
        counts = torch.tensor(layers, pin_memory=device.type == "cuda")
        return cls(counts.to(device, non_blocking=True), totals)  # nothing waits for the copy

    def decide(self, view: View, scores: Float[Tensor, "T"]) -> Decision:
        """Keep the tokens with the highest scores of each text.

        The decision counts them unless another method of a stack has removed tokens before.
        """
        keep = keep_top(scores, view.tokens, self.counts[view.layer])
        is_alone = view.tokens.slot.numel() == self.totals[view.layer]
        return Decision.keep(keep, count=self.totals[view.layer + 1] if is_alone else None)
