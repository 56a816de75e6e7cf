"""States that need not be computed again: second texts that were read through the lower layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fewer.core.packed import Packed
from fewer.kernels.sparse import offsets

__all__ = ["CachedStates", "current", "knowing"]


@dataclass(frozen=True)
class CachedStates:
    """What the second text of each pair of a batch is after the lower layers."""

    layers: int  # how many it was read through
    states: Sequence[Float[Tensor, "n D"]]  # of each text, in order; fewer than it has if some left
    places: Sequence[Int[Tensor, "n"]]  # where in the second text they stand, from 0; ascending

    def unknown(self, tokens: Packed) -> Packed:
        """Take the tokens of the first texts, which are still to be read."""
        assert tokens.second is not None
        if len(self.states) != tokens.grid[0]:
            raise ValueError(
                f"states of {len(self.states)} second texts are known, the batch has "
                f"{tokens.grid[0]} pairs"
            )
        return tokens.take((~tokens.second).nonzero().squeeze(1))

    def joined(self, tokens: Packed, asking: Packed) -> Packed:
        """Join the first texts, read by now, and what is known of the second, text by text."""
        assert tokens.second is not None
        counts = tokens.count(tokens.second.float()).long()
        starts = offsets(counts)
        seconds = tokens.second.nonzero().squeeze(1)
        device = seconds.device
        wanted = [int(places[-1]) if len(places) else -1 for places in self.places]
        for text, (last, count) in enumerate(zip(wanted, counts.tolist(), strict=True)):
            if last >= count:
                raise ValueError(
                    f"text {text} of the batch has {count} tokens in its second text, but states "
                    f"up to token {last} are known: another text, or another tokenizer"
                )
        places = torch.cat([places.to(device) for places in self.places])
        sizes = torch.tensor([len(places) for places in self.places], device=device)
        rows = seconds[places + starts[:-1].repeat_interleave(sizes)]
        states = torch.cat([states.to(device) for states in self.states])
        first = torch.searchsorted(tokens.slot, asking.slot)
        order = torch.cat((first, rows)).sort()
        hidden = torch.cat((asking.hidden, states.to(asking.hidden.dtype)))
        return tokens.take(order.values).with_hidden(hidden[order.indices])


_KNOWN: ContextVar[CachedStates | None] = ContextVar("fewer_known", default=None)


@contextmanager
def knowing(known: CachedStates) -> Iterator[None]:
    """Let the next pass inside the block, of a batch of pairs, start from what is known of them."""
    token = _KNOWN.set(known)
    try:
        yield
    finally:
        _KNOWN.reset(token)


def current() -> CachedStates | None:
    """Return what is known in this context, if anything."""
    return _KNOWN.get()
