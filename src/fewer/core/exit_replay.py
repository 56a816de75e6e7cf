"""What a pass in which no text exited would have been at another threshold of its exits.

An exit takes a whole text along and touches the states of no other, so one pass that computes all
heads and lets nothing exit tells what every threshold would do: the answers, and the FLOPs. Where
the texts are documents of a query, those that are still read may decide who exits together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fewer.core.decision import ExitOutput
from fewer.core.trace import LayerTrace, SparseCounts, Trace

__all__ = ["replay_exits"]


def replay_exits(
    trace: Trace, match: Callable[[Float[Tensor, "R ..."]], Bool[Tensor, "R"]], *, of_texts: bool
) -> Trace:
    """Return the trace with the exits that `match` tells of `ExitOutput.measure`.

    `match` sees the rows of the texts that are still read. `of_texts`: whether rows of outputs are
    texts; else they are slots of the grid. Decisions are left out.
    """
    texts, columns = trace.grid
    width = 1 if of_texts else columns
    depth = torch.full((texts,), len(trace.layers), device=trace.device)  # layers of each text
    outputs: list[ExitOutput] = []
    head_flops = None if trace.head_flops is None else torch.zeros_like(trace.head_flops)
    is_left = torch.ones_like(depth, dtype=torch.bool)
    for entry in trace.decisions:
        decision = entry.decision
        if head_flops is not None and decision.head_flops is not None:
            head_flops = head_flops + decision.head_flops * is_left
        exits = torch.zeros_like(is_left)
        for output in decision.exit_outputs:
            read = output.select(output.rows[is_left[output.rows // width]])
            assert read.measure is not None  # the policy's points have said so
            exited = match(read.measure)
            leaving = read.rows[exited] // width
            exits[leaving] = True
            depth[leaving] = output.layer + 1
            outputs.append(replace(read, exited=exited))
        is_left = is_left & ~exits
    layers = [_read_by(layer, depth > number, columns) for number, layer in enumerate(trace.layers)]
    return replace(
        trace, layers=layers, exit_outputs=outputs, decisions=[], head_flops=head_flops, carried={}
    )


def _read_by(layer: LayerTrace, reads: Bool[Tensor, "B"], columns: int) -> LayerTrace:
    """Return what a layer computed of the texts that read it."""
    assert layer.slot is not None  # the loop notes it
    weight = reads.to(layer.keys)
    taking_part = weight[layer.slot // columns]
    if layer.participation is not None:
        taking_part = taking_part * layer.participation
    return replace(
        layer,
        keys=layer.keys * weight,
        queries=layer.queries * weight,
        read=layer.read * weight,
        count_extra=partial(_count_of, layer, weight),
        participation=taking_part,
    )


def _count_of(layer: LayerTrace, weight: Float[Tensor, "B"]) -> SparseCounts:
    counts = layer.extra
    separate = counts.separate_projections
    return SparseCounts(
        None if counts.pairs is None else counts.pairs * weight,
        None if separate is None else (separate[0] * weight, separate[1] * weight),
    )
