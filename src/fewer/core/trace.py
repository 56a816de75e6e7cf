"""What happened in a forward pass. Losses, FLOPs, plots and explanations read it.

Modules store nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["LayerTrace", "Trace", "record", "recorded"]


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


@dataclass
class Trace:
    """The layers passed so far, and how many of them each token of the caller's grid has read."""

    grid: tuple[int, int]
    depth: Int[Tensor, "B*N"]  # layers read by each slot of the grid; 0 on padding
    layers: list[LayerTrace] = field(default_factory=list)

    @property
    def layers_read(self) -> Int[Tensor, "B N"]:
        """How many layers each token has read: 0..L, 0 on padding."""
        return self.depth.view(self.grid)


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


def recorded(trace: Trace) -> None:
    """Hand a finished trace to the innermost `record`, if there is one."""
    traces = _RECORDER.get()
    if traces is not None:
        traces.append(trace)
