"""What happened in a forward pass. Losses, FLOPs, plots and explanations read it.

Modules store nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fewer._cached_property import cached_property

if TYPE_CHECKING:
    from fewer.core.decision import Decision, ExitOutput
    from fewer.core.needs import Needs
    from fewer.core.packed import Packed

__all__ = [
    "DecisionRecord",
    "LayerTrace",
    "SparseCounts",
    "Trace",
    "publish",
    "record",
    "skipped_layer",
]


@dataclass(frozen=True)
class SparseCounts:
    """What an attention other than that of all with all multiplies, for each text."""

    pairs: Float[Tensor, "B"] | None = None  # of query and key; None: each query with each key
    # tokens that the separate projections of global tokens read: to queries, to keys and values
    separate_projections: tuple[Float[Tensor, "B"], Float[Tensor, "B"]] | None = None


@dataclass(frozen=True)
class LayerTrace:
    """Rows multiplied in one layer, for each text, and the tokens that read it.

    In a soft pass the counts are sums of gates, and differentiable.
    """

    keys: Float[Tensor, "B"]  # tokens projected to keys and values
    queries: Float[Tensor, "B"]  # tokens projected to queries, and through the attention's output
    read: Float[Tensor, "B"]  # tokens through the feed-forward network
    scored: bool  # whether attention received was summed
    gate: Float[Tensor, "T"] | None = None  # of this layer alone, before they multiply
    # `extra`, counted when it is read: a pass that nobody measures does not count
    count_extra: Callable[[], SparseCounts] = SparseCounts
    slot: Int[Tensor, "T"] | None = None  # of the tokens after the layer; None: unknown
    participation: Float[Tensor, "T"] | None = None  # how much each took part; None: all in full
    states: Float[Tensor, "T D"] | None = None  # they left with, where a policy needs them
    received: Float[Tensor, "T"] | None = None  # attention, where a policy needs it in the trace

    @cached_property
    def extra(self) -> SparseCounts:
        """Pairs and rows where not simply each query meets each key."""
        return self.count_extra()


def skipped_layer(tokens: Packed, needs: Needs) -> LayerTrace:
    """Return the trace of a layer that computes nothing."""
    none = torch.zeros_like(tokens.placement.lengths)
    return LayerTrace(
        *(none, none, none, False, None),
        slot=tokens.slot,
        participation=torch.zeros_like(tokens.slot, dtype=torch.float32),
        states=tokens.hidden if needs.states else None,
    )


@dataclass(frozen=True)
class DecisionRecord:
    """A decision with its guarantees, and the tokens that it was about."""

    slot: Int[Tensor, "T"]
    sequence: Int[Tensor, "T"]
    decision: Decision


@dataclass(repr=False)
class Trace:
    """The layers so far, and what was decided in them."""

    grid: tuple[int, int]
    device: torch.device
    lengths: Float[Tensor, "B"] | None = None  # tokens of each text as it came
    layers: list[LayerTrace] = field(default_factory=list)
    exit_outputs: list[ExitOutput] = field(default_factory=list)  # of exit heads, layer by layer
    predictor_outputs: list[ExitOutput] = field(default_factory=list)  # of parts of texts
    decisions: list[DecisionRecord] = field(default_factory=list)
    head_flops: Float[Tensor, "B"] | None = None  # FLOPs of the policy's own heads
    log_prob: Float[Tensor, "B"] | None = None  # of all that the policy drew
    carried: dict[str, Float[Tensor, "B*N ..."]] = field(default_factory=dict)  # by slot
    real: Int[Tensor, "T"] | None = None  # slots of the tokens that came in; None: every slot
    faults: list[Tensor] = field(default_factory=list)  # `Decision.faults`

    def __repr__(self) -> str:
        """Show counts: its tensors take pages."""
        counts = [f"layers={len(self.layers)}", f"texts={self.grid[0]}"]
        if self.layers:
            first, last = (
                float(count.sum()) for count in (self.layers[0].keys, self.layers[-1].read)
            )
            counts.append(f"tokens={first:g} in, {last:g} out")
        exits = sum(
            int(output.exited.sum()) for output in self.exit_outputs if output.exited is not None
        )
        return f"Trace({', '.join([*counts, f'exits={exits}'])})"

    def record(self, decision: Decision, tokens: Packed) -> None:
        """Note what a policy decided about these tokens, and what its heads computed."""
        self.exit_outputs += decision.exit_outputs
        self.predictor_outputs += decision.predictor_outputs
        self.faults += decision.faults
        self.head_flops = _add(self.head_flops, decision.head_flops)
        if decision.shortcut is not None and (gone := decision.pruned_among(tokens)) is not None:
            flops = tokens.count(gone.float()) * decision.shortcut.flops
            self.head_flops = _add(self.head_flops, flops)
        self.log_prob = _add(self.log_prob, decision.log_prob)
        for name, values in decision.carry.items():
            size = self.grid[0] * self.grid[1]
            old = self.carried.get(name, values.new_zeros(size, *values.shape[1:]))
            self.carried[name] = old.index_copy(0, tokens.slot, values)
        self.decisions.append(DecisionRecord(tokens.slot, tokens.sequence, decision))

    def answered(self, logits: Float[Tensor, "... C"]) -> Float[Tensor, "... C"]:
        """Put the answers of exits in place of the last layer's, which the others keep.

        `logits` is `(B, C)`, or `(B, N, C)` where exits are those of tokens.
        """
        outputs = [output for output in self.exit_outputs if output.exited is not None]
        if not outputs:
            return logits
        flat = logits.flatten(0, -2).clone()
        for output in outputs:
            assert output.exited is not None
            answers, exited = output.logits.to(flat.dtype), output.exited.unsqueeze(1)
            flat[output.rows] = torch.where(exited, answers, flat[output.rows])
        return flat.view_as(logits)

    @property
    def exited(self) -> Bool[Tensor, "B"]:
        """Which texts were answered by an exit of whole texts."""
        exited = torch.zeros(self.grid[0], dtype=torch.bool, device=self.device)
        for output in self.exit_outputs:
            if output.exited is not None:
                exited[output.rows[output.exited]] = True
        return exited

    @property
    def padding(self) -> Bool[Tensor, "B N"]:
        """Which places of the caller's grid hold no token."""
        empty = torch.zeros(self.grid[0] * self.grid[1], dtype=torch.bool, device=self.device)
        if self.real is not None:
            empty = torch.ones_like(empty).index_fill(0, self.real, False)
        return empty.view(self.grid)

    @property
    def dropped(self) -> Bool[Tensor, "B N"]:
        """Which tokens were pruned before their text was answered, and are no answer themselves."""
        gone = torch.zeros(self.grid[0] * self.grid[1], dtype=torch.bool, device=self.device)
        restored = torch.zeros_like(gone)
        answered = torch.zeros(self.grid[0], dtype=torch.bool, device=self.device)
        for entry in self.decisions:
            if entry.decision.exits is not None:
                answered = answered | entry.decision.exits
            is_kept = entry.decision.kept
            if is_kept is not None:  # without removal, decisions are also about pruned tokens
                pruned = ~is_kept & ~answered[entry.sequence]
                if entry.decision.restores:
                    restored[entry.slot] |= pruned & ~gone[entry.slot]
                else:
                    gone[entry.slot] |= pruned & ~restored[entry.slot]
        return gone.view(self.grid)

    @property
    def faded(self) -> Float[Tensor, "B N"] | None:
        """The gates of each token that is no answer once it is pruned, multiplied; `None`: all 1.

        Of a soft pass, where it stands for `dropped`.
        """
        total: Tensor | None = None
        for entry in self.decisions:
            gate = entry.decision.gate
            if gate is None or entry.decision.restores:
                continue
            gates = torch.ones(self.grid[0] * self.grid[1], device=self.device)
            gates = gates.index_copy(0, entry.slot, gate.float())
            total = gates if total is None else total * gates
        return None if total is None else total.view(self.grid)

    @property
    def layers_read(self) -> Int[Tensor, "B N"]:
        """How many layers each token was computed in: 0..L, 0 on padding."""
        depth = torch.zeros(self.grid[0] * self.grid[1], dtype=torch.long, device=self.device)
        for layer in self.layers:
            assert layer.slot is not None  # the loop notes it
            took_part = layer.participation
            read = torch.ones_like(layer.slot) if took_part is None else (took_part >= 0.5).long()
            depth.index_add_(0, layer.slot, read)
        return depth.view(self.grid)


def _add(total: Tensor | None, more: Tensor | None) -> Tensor | None:
    return total if more is None else more if total is None else total + more


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
