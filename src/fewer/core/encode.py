"""One forward pass: the loop that a method only steers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.apply import Apply
from fewer.core.attention import attention, gather_rows, query_rows, scatter_rows
from fewer.core.cached_states import current
from fewer.core.decision import Decision, Site, View
from fewer.core.layer import Layer
from fewer.core.packed import Packed
from fewer.core.policy import Policy
from fewer.core.trace import LayerTrace, Trace
from fewer.kernels import Kernel
from fewer.kernels.cpu.buffers import zeros

__all__ = ["encode", "read_through"]

# A norm's scale below it cannot be divided out again.
NO_SCALE = 1e-6

_States = tuple[Tensor, Tensor]  # slots in the caller's grid, and the states that belong there


def encode(
    layers: Sequence[Layer],
    policy: Policy,
    tokens: Packed,
    *,
    apply: Apply,
    attend: Kernel,
    finish: Callable[[Tensor], Tensor] = nn.Identity(),  # noqa: B008 (stateless)
) -> tuple[Float[Tensor, "B N D"], Trace]:
    """Read the tokens through the layers, letting the policy decide who reads on.

    Returns every token's last state in the caller's grid, gone or not (the output of the last layer
    it finished, passed once through `finish`, the final norm; zeros on padding), and the trace.
    """
    trace = Trace(tokens.grid, tokens.slot.device, real=tokens.slot)
    left: list[_States] = []
    read = partial(_read, layers, policy, trace, left, apply, attend)
    known = current()
    if known is None:
        tokens = read(tokens, range(len(layers)))
    else:
        asking = read(known.unknown(tokens), range(known.layers))
        joined = known.joined(tokens, asking)
        there = Decision.keep(torch.isin(tokens.slot, joined.slot))
        trace.settled.append((tokens.slot, tokens.sequence, there))
        tokens = read(joined, range(known.layers, len(layers)))
    return _restore(tokens.grid, [*left, (tokens.slot, tokens.hidden)], finish), trace


def read_through(
    layers: Sequence[Layer],
    policy: Policy,
    tokens: Packed,
    *,
    apply: Apply,
    attend: Kernel,
    stop: int,
) -> Packed:
    """Read the tokens through the layers before `stop` only: those that are still there."""
    trace = Trace(tokens.grid, tokens.slot.device, real=tokens.slot)
    return _read(layers, policy, trace, [], apply, attend, tokens, range(stop))


def _read(
    layers: Sequence[Layer],
    policy: Policy,
    trace: Trace,
    left: list[_States],
    apply: Apply,
    attend: Kernel,
    tokens: Packed,
    numbers: range,
) -> Packed:
    """Read through the layers of these numbers, until nobody is left."""
    for index in numbers:
        layer = layers[index]
        entered, keys, queries = tokens, tokens.count(tokens.gate), tokens.count(tokens.presence)
        view = partial(View, index, len(layers), trace=trace, gated=not apply.removes)
        tokens, extra = attention(layer, tokens, apply, attend, policy, index)
        tokens, gate = _decide(policy, Site.MIDDLE, tokens, view, apply)
        entered, tokens = _remove(entered, tokens, apply, left)
        tokens = _ffn(layer, entered, tokens, apply)
        read, scored = tokens.count(tokens.presence), tokens.received is not None
        trace.layers.append(LayerTrace(keys, queries, read, scored, gate, extra))
        trace.readers.append((tokens.slot, tokens.presence))
        tokens = apply.settle(entered, tokens)
        if policy.renormalises_frozen and tokens.active is not None:
            tokens = _renorm_resting(tokens, layer, layers[index - 1])
        if policy.needs(index).states:
            trace.states[index] = (tokens.slot, tokens.hidden)
        tokens, _ = _decide(policy, Site.AFTER, tokens, view, apply)
        _, tokens = _remove(tokens, tokens, apply, left)
        if tokens.is_empty:
            break
    return tokens


def _ffn(layer: Layer, entered: Packed, tokens: Packed, apply: Apply) -> Packed:
    rows = query_rows(tokens, apply)
    return tokens.with_hidden(
        scatter_rows(entered.hidden, layer.ffn(gather_rows(tokens.hidden, rows)), rows)
    )


def _decide(
    policy: Policy, site: Site, tokens: Packed, view: Callable[[Site, Packed], View], apply: Apply
) -> tuple[Packed, Tensor | None]:
    """Ask the policy, note on the tokens what it decided; what its heads said goes to the trace."""
    if site not in policy.sites:
        return tokens, None
    asked = view(site, tokens)
    decision = policy.decide(asked)
    if decision is None:
        return tokens, None
    asked.trace.record_outputs(decision)
    settled = decision.settled(tokens)
    asked.trace.settled.append((tokens.slot, tokens.sequence, settled))
    return (tokens if settled.fate is None else apply.carry(tokens, settled)), settled.gate


def _renorm_resting(tokens: Packed, layer: Layer, before: Layer) -> Packed:
    """Give states at rest, which `before` normed, the scale and shift of this layer's norm."""
    old, new = before.last_norm, layer.last_norm
    if old is None or new is None or tokens.active is None:
        return tokens
    scale = torch.where(old.weight.abs() < NO_SCALE, torch.ones_like(old.weight), old.weight)
    renormed = ((tokens.hidden - old.bias) / scale * new.weight + new.bias).to(tokens.hidden.dtype)
    return tokens.with_hidden(torch.where(tokens.active[:, None], tokens.hidden, renormed))


def _remove(
    entered: Packed, tokens: Packed, apply: Apply, left: list[_States]
) -> tuple[Packed, Packed]:
    """Take the gone out of memory; they are kept as they entered, for the caller's grid."""
    if tokens.alive is None or not apply.removes:
        return entered, tokens
    stays = tokens.alive.nonzero().squeeze(1)
    if stays.numel() < tokens.slot.numel():
        gone = (~tokens.alive).nonzero().squeeze(1)
        left.append((gather_rows(entered.slot, gone), gather_rows(entered.hidden, gone)))
        tokens = tokens.take(stays)
        entered = tokens if tokens.active is None else entered.take(stays)  # read by those at rest
    return entered, tokens.but(alive=None)


def _restore(
    grid: tuple[int, int], parts: list[_States], finish: Callable[[Tensor], Tensor]
) -> Float[Tensor, "B N D"]:
    _, last = parts[-1]
    if len(parts) == 1 and last.shape[0] == grid[0] * grid[1]:  # no padding, nobody left
        whole: Tensor = finish(last).unflatten(0, grid)
        return whole
    restored: Tensor | None = None
    for slot, hidden in parts:
        if slot.numel():
            states = finish(hidden.to(last.dtype))
            if restored is None:
                restored = zeros(grid[0] * grid[1], states.shape[1], like=states)
            restored.index_copy_(0, slot, states)
    assert restored is not None  # every text has a token
    found: Tensor = restored.unflatten(0, grid)
    return found
