"""States of tokens that the layers no longer compute, until all go back to the caller's grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from fewer.core.decision import Decision
from fewer.core.evidence import Evidence
from fewer.core.packed import Packed
from fewer.core.partition import can_look
from fewer.kernels.cpu.buffers import zeros

__all__ = ["RemovedStates", "gather_rows", "scatter_rows"]


@dataclass
class RemovedStates:
    """States of tokens that were pruned or whose text exited, by slot of the caller's grid."""

    parts: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # slots and states
    # last states of tokens that were pruned by a shortcut and are still in memory
    ends: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def remove(
        self, entered: Packed, tokens: Packed, evidence: Evidence, decision: Decision
    ) -> tuple[Packed, Packed, Evidence]:
        """Take what was pruned out of memory, here and in `entered`.

        It keeps the state with which it entered, or what the decision's shortcut makes of its
        present one.
        """
        if tokens.alive is None:
            return entered, tokens, evidence
        source = entered if decision.shortcut is None else tokens
        ends_texts = decision.exits is not None
        tokens, rows, gone = tokens.without_pruned(decision.count, ends_texts=ends_texts)
        if gone.numel():
            states = gather_rows(source.hidden, gone)
            if decision.shortcut is not None:
                states = decision.shortcut.estimate(states)
            self.parts.append((gather_rows(source.slot, gone), states))
            evidence = evidence.select(rows)
            entered = tokens if tokens.active is None else entered.select(rows)
        return entered, tokens, evidence

    def note_ends(self, tokens: Packed, decision: Decision) -> None:
        """Note what a shortcut makes of tokens that are pruned now and stay in memory, unread."""
        is_pruned = decision.pruned_among(tokens)
        if decision.shortcut is not None and is_pruned is not None:
            rows = is_pruned.nonzero().squeeze(1)
            self.ends.append((tokens.slot[rows], decision.shortcut.estimate(tokens.hidden[rows])))

    def restore(self, tokens: Packed, finish: Callable[[Tensor], Tensor]) -> Float[Tensor, "B N D"]:
        """Put all states where the caller expects them, each passed once through `finish`."""
        grid, last = tokens.grid, tokens.hidden
        is_whole = last.shape[0] == grid[0] * grid[1]  # no padding, no token pruned
        if is_whole and not self.parts and not self.ends:
            padded: Tensor = finish(last).unflatten(0, grid)
            return padded
        restored: Tensor | None = None
        parts = [*self.parts, (tokens.slot, last)]
        if not can_look(last):  # few large steps rather than no copy
            slots, states_of = zip(*parts, strict=True)
            parts = [(torch.cat(slots), torch.cat([states.to(last.dtype) for states in states_of]))]
        for slot, hidden in parts:
            if slot.numel():
                states = finish(hidden.to(last.dtype))
                if restored is None:
                    restored = zeros(grid[0] * grid[1], states.shape[1], like=states)
                restored.index_copy_(0, slot, states)
        assert restored is not None  # every text has a token
        for slot, hidden in self.ends:
            restored.index_copy_(0, slot, finish(hidden.to(last.dtype)))
        grid_states: Tensor = restored.unflatten(0, grid)
        return grid_states


def gather_rows(values: Tensor, rows: Tensor | None) -> Tensor:
    """Take these rows; `None` takes all."""
    return values if rows is None else values.index_select(0, rows)


def scatter_rows(base: Tensor, values: Tensor, rows: Tensor | None) -> Tensor:
    """Put values in the place of these rows; `None`: of all."""
    return values if rows is None else base.to(values.dtype).index_copy(0, rows, values)
