"""States that need not be computed again: second texts that the lower layers have encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fewer.core.decision import Decision
from fewer.core.packed import Packed
from fewer.core.trace import DecisionRecord, Trace
from fewer.kernels.sparse import offsets

__all__ = ["CachedStates"]


@dataclass(frozen=True)
class CachedStates:
    """Hidden states of each pair's second text after the lower layers."""

    layers: int  # number of layers that the texts were encoded by
    states: Sequence[Float[Tensor, "n D"]]  # of each text, in order; without pruned tokens
    places: Sequence[Int[Tensor, "n"]]  # where in the second text they stand, from 0; ascending

    def first_texts(self, tokens: Packed) -> Packed:
        """Take the tokens of the first texts, which are still to be computed."""
        assert tokens.roles.second_text is not None
        if len(self.states) != tokens.grid[0]:
            raise ValueError(
                "cached states must be those of the batch's second texts; got states of "
                f"{len(self.states)} texts for {tokens.grid[0]} pairs."
            )
        return tokens.select((~tokens.roles.second_text).nonzero().squeeze(1))

    def join(self, tokens: Packed, firsts: Packed, trace: Trace) -> Packed:
        """Join the first texts, computed by now, and the cached second texts, text by text.

        Tokens without a state were pruned by one of the two: the trace notes it.
        """
        is_second = tokens.roles.second_text
        assert is_second is not None
        counts = tokens.count(is_second.float()).long()
        starts = offsets(counts)
        seconds = is_second.nonzero().squeeze(1)
        device = seconds.device
        last_places = [int(places[-1]) if len(places) else -1 for places in self.places]
        for text, (last, count) in enumerate(zip(last_places, counts.tolist(), strict=True)):
            if last >= count:
                raise ValueError(
                    f"cached states must be those of the batch's second texts; got states up to "
                    f"token {last} for text {text} of {count} tokens: another text or tokenizer."
                )
        places = torch.cat([places.to(device) for places in self.places])
        sizes = torch.tensor([len(places) for places in self.places], device=device)
        rows = seconds[places + starts[:-1].repeat_interleave(sizes)]
        states = torch.cat([states.to(device) for states in self.states])
        first_rows = torch.searchsorted(tokens.slot, firsts.slot)
        order = torch.cat((first_rows, rows)).sort()
        hidden = torch.cat((firsts.hidden, states.to(firsts.hidden.dtype)))
        joined = tokens.select(order.values).replace(hidden=hidden[order.indices])
        remaining = Decision.keep(torch.isin(tokens.slot, joined.slot))
        trace.decisions.append(DecisionRecord(tokens.slot, tokens.sequence, remaining))
        return joined
