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

    def remove(
        self, entered: Packed, tokens: Packed, evidence: Evidence, decision: Decision
    ) -> tuple[Packed, Packed, Evidence]:
        """Take what was pruned out of memory, here and in `entered`, whose state it keeps."""
        if tokens.alive is None:
            return entered, tokens, evidence
        ends_texts = decision.exits is not None
        tokens, rows, gone = tokens.without_pruned(decision.count, ends_texts=ends_texts)
        if gone.numel():
            self.parts.append((gather_rows(entered.slot, gone), gather_rows(entered.hidden, gone)))
            evidence = evidence.select(rows)
            entered = tokens if tokens.active is None else entered.select(rows)
        return entered, tokens, evidence

    def restore(self, tokens: Packed, finish: Callable[[Tensor], Tensor]) -> Float[Tensor, "B N D"]:
        """Put all states where the caller expects them, each passed once through `finish`."""
        grid, last = tokens.grid, tokens.hidden
        if not self.parts and last.shape[0] == grid[0] * grid[1]:  # no padding, no token pruned
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
        grid_states: Tensor = restored.unflatten(0, grid)
        return grid_states


def gather_rows(values: Tensor, rows: Tensor | None) -> Tensor:
    """Take these rows; `None` takes all."""
    return values if rows is None else values.index_select(0, rows)


def scatter_rows(base: Tensor, values: Tensor, rows: Tensor | None) -> Tensor:
    """Put values in the place of these rows; `None`: of all."""
    return values if rows is None else base.to(values.dtype).index_copy(0, rows, values)
