"""What happened in a forward pass. Losses, FLOPs, plots and explanations read it.

Modules store nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from fewer.core.decision import Decision, ExitOutput

__all__ = ["LayerTrace", "SparseCounts", "Trace", "publish", "record"]


@dataclass(frozen=True)
class SparseCounts:
    """What an attention other than that of all with all multiplies, for each text."""

    pairs: Float[Tensor, "B"] | None = None  # of query and key; None: each query with each key
    # tokens projected once more, for anchors: to queries, and to keys and values
    far: tuple[Float[Tensor, "B"], Float[Tensor, "B"]] | None = None


@dataclass(frozen=True)
class LayerTrace:
    """Rows multiplied in one layer, for each text.

    While removal is played softly they are sums of gates, and differentiable.
    """

    keys: Float[Tensor, "B"]  # tokens projected to keys and values
    queries: Float[Tensor, "B"]  # tokens projected to queries, and through the attention's output
    read: Float[Tensor, "B"]  # tokens through the feed-forward network
    scored: bool  # whether attention received was summed
    gate: Float[Tensor, "T"] | None = (
        None  # this layer's own gates, before they multiply with earlier ones
    )
    extra: SparseCounts = SparseCounts()  # where not simply each query meets each key


@dataclass(repr=False)
class Trace:
    """The layers passed so far, and which tokens of the caller's grid read each of them."""

    grid: tuple[int, int]
    device: torch.device
    layers: list[LayerTrace] = field(default_factory=list)
    readers: list[tuple[Int[Tensor, "T"], Float[Tensor, "T"] | None]] = field(
        default_factory=list
    )  # of each layer: slots in the grid, and how much of each token took part (`None`: all did)
    exit_outputs: list[ExitOutput] = field(default_factory=list)  # what exits said, layer by layer
    predictor_outputs: list[ExitOutput] = field(
        default_factory=list
    )  # what predictors said of parts of texts
    # of layers that a policy watches: the state each token left with, and where it stands
    states: dict[int, tuple[Int[Tensor, "T"], Float[Tensor, "T D"]]] = field(default_factory=dict)
    # settled decisions, and the slot and text of each token that they were about
    settled: list[tuple[Int[Tensor, "T"], Int[Tensor, "T"], Decision]] = field(default_factory=list)
    head_flops: Float[Tensor, "B"] | None = None  # FLOPs of the policy's own heads
    real: Int[Tensor, "T"] | None = None  # slots of the tokens that came in; None: every slot

    def __repr__(self) -> str:
        """Show counts: its tensors take pages."""
        counts = [f"layers={len(self.layers)}", f"texts={self.grid[0]}"]
        if self.layers:
            first, last = (
                float(layer.sum()) for layer in (self.layers[0].keys, self.layers[-1].read)
            )
            counts.append(f"tokens={first:g} in, {last:g} out")
        exits = sum(int(said.final.sum()) for said in self.exit_outputs if said.final is not None)
        return f"Trace({', '.join([*counts, f'exits={exits}'])})"

    def record_outputs(self, decision: Decision) -> None:
        """Note what a policy's heads said, and what they cost."""
        self.exit_outputs += decision.exit_outputs
        self.predictor_outputs += decision.predictor_outputs
        if decision.head_flops is not None:
            self.head_flops = (
                decision.head_flops
                if self.head_flops is None
                else self.head_flops + decision.head_flops
            )

    def answered(self, logits: Float[Tensor, "... C"]) -> Float[Tensor, "... C"]:
        """Put the answers of exits in place of the last layer's, which the others keep.

        `logits` is `(B, C)`, or `(B, N, C)` where exits speak of tokens.
        """
        final = [one for one in self.exit_outputs if one.final is not None]
        if not final:
            return logits
        flat = logits.flatten(0, -2).clone()
        for one in final:
            assert one.final is not None
            flat[one.rows[one.final]] = one.logits[one.final].to(flat.dtype)
        return flat.view_as(logits)

    @property
    def padding(self) -> Bool[Tensor, "B N"]:
        """Which places of the caller's grid hold no token."""
        empty = torch.zeros(self.grid[0] * self.grid[1], dtype=torch.bool, device=self.device)
        if self.real is not None:
            empty = torch.ones_like(empty).index_fill(0, self.real, False)
        return empty.view(self.grid)

    @property
    def dropped(self) -> Bool[Tensor, "B N"]:
        """Which tokens left before their text was answered."""
        gone = torch.zeros(self.grid[0] * self.grid[1], dtype=torch.bool, device=self.device)
        answered = torch.zeros(self.grid[0], dtype=torch.bool, device=self.device)
        for slot, sequence, decision in self.settled:
            if decision.leaves is not None:
                answered = answered | decision.leaves
            if decision.stays is not None:  # played in memory, it is also about those who have left
                gone[slot[~decision.stays & ~answered[sequence]]] = True
        return gone.view(self.grid)

    @property
    def layers_read(self) -> Int[Tensor, "B N"]:
        """How many layers each token has read: 0..L, 0 on padding; counted when it is asked for."""
        depth = torch.zeros(self.grid[0] * self.grid[1], dtype=torch.long, device=self.device)
        for slot, presence in self.readers:
            read = torch.ones_like(slot) if presence is None else (presence >= 0.5).long()
            depth.index_add_(0, slot, read)
        return depth.view(self.grid)


_RECORDER: ContextVar[list[Trace] | None] = ContextVar("fewer_recorder", default=None)


@contextmanager
def record() -> Iterator[list[Trace]]:
    """Collect the trace of every packed forward pass inside the block, in order.

    >>> with record() as traces:
    ...     model(**batch)  # doctest: +SKIP
    """
    traces: list[Trace] = []
    token = _RECORDER.set(traces)
    try:
        yield traces
    finally:
        _RECORDER.reset(token)


def publish(trace: Trace) -> None:
    """Hand a finished trace to the innermost `record`, if there is one."""
    traces = _RECORDER.get()
    if traces is not None:
        traces.append(trace)
