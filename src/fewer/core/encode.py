"""One forward pass: the loop that a method only steers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer._cached_property import cached_property
from fewer.core.apply import APPLIES, Apply
from fewer.core.attention import attention, count_window, query_rows
from fewer.core.cached_states import CachedStates
from fewer.core.decision import COUNT_RULE, GATE_RULE, NO_DECISION, Decision, Site, View
from fewer.core.evidence import NO_EVIDENCE, Evidence
from fewer.core.layer import Layer, LayerChain, renormalise_frozen
from fewer.core.needs import FULL_LAYOUT, NO_NEEDS
from fewer.core.packed import Packed
from fewer.core.phase import INFERENCE, Phase
from fewer.core.policy import Policy, may_decide
from fewer.core.removed import RemovedStates, gather_rows, scatter_rows
from fewer.core.replay import Graphs, replay
from fewer.core.trace import LayerTrace, Trace, skipped_layer
from fewer.kernels import Kernel, Pattern

__all__ = ["encode", "read_through"]


def encode(
    layers: Sequence[Layer],
    policy: Policy,
    tokens: Packed,
    *,
    attend: Kernel,
    phase: Phase = INFERENCE,
    finish: Callable[[Tensor], Tensor] = nn.Identity(),  # noqa: B008 (stateless)
    cached: CachedStates | None = None,
    graphs: Graphs | None = None,
    chain: LayerChain | None = None,
) -> tuple[Float[Tensor, "B N D"], Trace]:
    """Run the tokens through the layers, the policy deciding which go on.

    Returns every token's last state in the caller's grid, pruned or not (the output of the last
    layer it finished, or what the decision's shortcut makes of its state, passed once through
    `finish`, the final norm; zeros on padding), and the trace. With `cached` the lower layers
    compute only the first text of each pair. With `graphs`, a pass in which the policy does nothing
    is replayed from a CUDA graph. `chain` computes what lies between decisions, in the same bits as
    the layers.
    """
    run = _Run(layers, policy, phase, attend, tokens, chain)
    replayed = None if graphs is None or cached is not None else run.replay_layers(tokens, graphs)
    if replayed is not None:
        tokens = replayed
    elif cached is None:
        tokens = run.run_layers(tokens, range(len(layers)))
    else:
        firsts = run.run_layers(cached.first_texts(tokens), range(cached.layers))
        tokens = cached.join(tokens, firsts, run.trace)
        tokens = run.run_layers(tokens, range(cached.layers, len(layers)))
    if run.trace.faults and bool(torch.stack(run.trace.faults).any()):
        raise ValueError(f"{GATE_RULE}; {COUNT_RULE}; got other values. A CPU names the token.")
    return run.removed.restore(tokens, finish), run.trace


def read_through(
    layers: Sequence[Layer], policy: Policy, tokens: Packed, *, attend: Kernel, stop: int
) -> tuple[Packed, Trace]:
    """Run the tokens through the layers before `stop` only; return those that are left."""
    run = _Run(layers, policy, INFERENCE, attend, tokens)
    return run.run_layers(tokens, range(stop)), run.trace


@dataclass
class _Run:
    layers: Sequence[Layer]
    policy: Policy
    phase: Phase
    attend: Kernel
    start: Packed  # the tokens as they came
    chain: LayerChain | None = None
    removed: RemovedStates = field(default_factory=RemovedStates)

    @cached_property
    def apply(self) -> Apply:
        return APPLIES[self.phase.apply]

    @cached_property
    def trace(self) -> Trace:
        start = self.start
        return Trace(start.grid, start.slot.device, start.placement.lengths, real=start.slot)

    @cached_property
    def state(self) -> Any:
        return self.policy.begin(self.start, self.phase)

    def run_layers(self, tokens: Packed, numbers: range) -> Packed:
        """Run through the layers of these numbers, until no token is left."""
        index, stop = numbers.start, numbers.stop
        while index < stop and not tokens.is_empty:
            tokens, decision = self.decide(Site.BEFORE, index, tokens, NO_EVIDENCE)
            _, tokens, _ = self.remove(tokens, tokens, NO_EVIDENCE, decision)
            if tokens.is_empty:
                break
            if decision.skips_layer:
                needs = self.policy.needs(index, self.phase)
                self.trace.layers.append(skipped_layer(tokens, needs))
                index += 1
                continue
            end, evidence = self.chained_until(tokens, index, stop), NO_EVIDENCE
            if self.chain is not None and end > index:
                tokens, index = self.run_chain(self.chain, tokens, index, end), end
            else:
                tokens, evidence = self.run_layer(tokens, index)
                index += 1
            tokens, decision = self.decide(Site.AFTER, index - 1, tokens, evidence)
            _, tokens, _ = self.remove(tokens, tokens, NO_EVIDENCE, decision)
        return tokens

    def run_layer(self, tokens: Packed, index: int) -> tuple[Packed, Evidence]:
        """Run through one layer; also return the evidence that may be looked at after it."""
        layer, needs, apply = self.layers[index], self.policy.needs(index, self.phase), self.apply
        layout = self.policy.layout(index, self.phase)
        entered, keys = tokens, tokens.count(tokens.gate)
        queries = tokens.count(tokens.participation)
        tokens, evidence, count_extra = attention(
            layer,
            tokens,
            apply,
            self.attend,
            needs,
            layout,
            chain=None if self.chain is None else partial(self.chain.attend, layer=index),
            training=self.policy.training,
        )
        scored = evidence.received is not None or evidence.from_others is not None
        tokens, decision = self.decide(Site.MIDDLE, index, tokens, evidence)
        if not self.acts(index, Site.AFTER) and not needs.received_in_trace:
            evidence = NO_EVIDENCE  # nobody reads it any more
        entered, tokens, evidence = self.remove(entered, tokens, evidence, decision)
        rows = query_rows(tokens, apply)
        hidden = layer.ffn(gather_rows(tokens.hidden, rows))
        tokens = tokens.replace(hidden=scatter_rows(entered.hidden, hidden, rows))
        participation = tokens.participation
        tokens = apply.settle(entered, tokens)
        if needs.renormalised and index and tokens.active is not None:
            tokens = renormalise_frozen(tokens, self.layers[index - 1], layer)
        layer_trace = LayerTrace(
            keys=keys,
            queries=queries,
            read=tokens.count(participation),
            scored=scored,
            gate=decision.gate,
            count_extra=count_extra,
            slot=tokens.slot,
            participation=participation,
            states=tokens.hidden if needs.states else None,
            received=evidence.received if needs.received_in_trace else None,
        )
        self.trace.layers.append(layer_trace)
        return tokens, evidence

    def acts(self, layer: int, site: Site) -> bool:
        """Return whether the policy may decide anything here."""
        return may_decide(self.policy, layer, site)

    def chained_until(self, tokens: Packed, first: int, stop: int) -> int:
        """Return the end of the layers from `first` on that a chain may run at once.

        Nothing is needed of them, and nothing decided but before the first and after the last. It
        is `first` where the chain may run none.
        """
        chain, policy, phase = self.chain, self.policy, self.phase
        if chain is None or policy.training or not tokens.take_part_or_freeze:
            return first
        if tokens.active is not None:
            if not (chain.reads_some_rows and self.apply.removes):
                return first
            stop = first + 1
        for index in range(first, stop):
            if index > first and self.acts(index, Site.BEFORE):
                return index
            if (
                self.acts(index, Site.MIDDLE)
                or policy.needs(index, phase) != NO_NEEDS
                or policy.layout(index, phase) != FULL_LAYOUT
            ):
                return index
            if self.acts(index, Site.AFTER):
                return index + 1
        return stop

    def run_chain(self, chain: LayerChain, tokens: Packed, first: int, stop: int) -> Packed:
        """Run the layers from `first` up to `stop`, in which nothing is decided."""
        rows = query_rows(tokens, self.apply)
        hidden = chain.run(tokens, first, stop, rows)
        self.note_undecided(tokens, [layer.pattern for layer in self.layers[first:stop]])
        return tokens.replace(hidden=scatter_rows(tokens.hidden, hidden, rows))

    def note_undecided(self, tokens: Packed, patterns: Sequence[Pattern | None]) -> None:
        """Note layers in which nothing was decided, each with its window, if there is one.

        Neighbours with the same window share what is noted.
        """
        keys, participation = tokens.count(None), tokens.participation
        queries = keys if participation is None else tokens.count(participation)
        for pattern, layers in groupby(patterns):
            count = count_window(pattern, tokens)
            layer = LayerTrace(
                *(keys, queries, queries, False, None, count, tokens.slot, participation)
            )
            self.trace.layers.extend(layer for _ in layers)

    def replay_layers(self, tokens: Packed, graphs: Graphs) -> Packed | None:
        """Run through all layers by a graph; `None` where the policy acts or there is none."""
        numbers, policy = range(len(self.layers)), self.policy
        layouts = [policy.layout(index, self.phase) for index in numbers]
        patterns = [
            layer.pattern or layout.pattern
            for layer, layout in zip(self.layers, layouts, strict=True)
        ]
        if (
            policy.sites
            or any(policy.needs(index, self.phase) != NO_NEEDS for index in numbers)
            or any(layout.split_pairs or layout.heads is not None for layout in layouts)
            or any(pattern is not None and not pattern.is_window for pattern in patterns)
        ):
            return None

        def run_layers(static: Packed) -> Packed:
            run = _Run(self.layers, policy, self.phase, self.attend, static)
            return run.run_layers(static, numbers)

        hidden = replay(tokens, run_layers, graphs)
        if hidden is None:
            return None
        tokens = tokens.replace(hidden=hidden)
        self.note_undecided(tokens, patterns)
        return tokens

    def decide(
        self, site: Site, layer: int, tokens: Packed, evidence: Evidence
    ) -> tuple[Packed, Decision]:
        """Carry out what the policy decides here, and note it; also return it."""
        if not self.acts(layer, site):
            return tokens, NO_DECISION
        view = View(
            layer=layer,
            num_layers=len(self.layers),
            site=site,
            tokens=tokens,
            evidence=evidence,
            lengths=self.start.placement.lengths,
            host_lengths=self.start.placement.host_lengths,
            trace=self.trace,
            phase=self.phase,
            attend=self.attend,
            state=self.state,
            soft=not self.apply.removes,
        )
        decision = self.policy(view)
        if decision is None:
            return tokens, NO_DECISION
        decision = decision.with_guarantees(tokens)
        self.trace.record(decision, tokens)
        if decision.heads is not None:
            heads = decision.heads if tokens.heads is None else tokens.heads & decision.heads
            tokens = tokens.replace(heads=heads)
        if decision.states is not None:
            tokens = tokens.replace(hidden=decision.states)
        if decision.fate is not None:
            if not self.apply.removes:
                self.removed.note_ends(tokens, decision)
            tokens = self.apply.carry_out(tokens, decision)
        return tokens, decision

    def remove(
        self, entered: Packed, tokens: Packed, evidence: Evidence, decision: Decision
    ) -> tuple[Packed, Packed, Evidence]:
        """Take pruned tokens out of memory, where decisions are real."""
        if not self.apply.removes:
            return entered, tokens, evidence
        return self.removed.remove(entered, tokens, evidence, decision)
