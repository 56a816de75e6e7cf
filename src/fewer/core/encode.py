"""One forward pass: the loop that a method only steers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer.core.apply import Apply
from fewer.core.decision import Decision, Site, View
from fewer.core.known import current
from fewer.core.packed import Packed
from fewer.core.policy import Policy
from fewer.core.trace import LayerTrace, Trace
from fewer.kernels import AttentionCall, Kernel
from fewer.native.memory import zeros

__all__ = ["Layer", "encode", "read_through"]

# A norm's scale below it cannot be divided out again.
NO_SCALE = 1e-6

_UNSEEN: dict[str, None] = {"query": None, "key": None, "normaliser": None}
_States = tuple[Tensor, Tensor]  # slots in the caller's grid, and the states that belong there


class Layer(Protocol):
    """One layer of a backbone: the model's own modules, called in the model's own order."""

    @property
    def window(self) -> int | None:
        """Farthest original distance attended, or `None` for all."""
        ...

    @property
    def dropout(self) -> float:
        """Dropout of the attention probabilities; 0 in eval mode."""
        ...

    @property
    def last_norm(self) -> Any:
        """The layer norm that makes the layer's output; `None` where its output is a plain sum."""
        ...

    def qkv(
        self,
        hidden: Float[Tensor, "T D"],
        position: Int[Tensor, "T"],
        rows: Int[Tensor, "Tq"] | None,
    ) -> tuple[Float[Tensor, "Tq H d"], Float[Tensor, "T H d"], Float[Tensor, "T H d"]]:
        """Project to queries (of `rows` only, `None` = all), keys and values."""
        ...

    def attended(
        self, context: Float[Tensor, "Tq H*d"], hidden: Float[Tensor, "Tq D"]
    ) -> Float[Tensor, "Tq D"]:
        """Finish the attention block: output projection, residual, norm."""
        ...

    def ffn(self, hidden: Float[Tensor, "Tq D"]) -> Float[Tensor, "Tq D"]:
        """Run the feed-forward block with its residual and norm."""
        ...


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
    trace = Trace(tokens.grid, tokens.slot.device)
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
    trace = Trace(tokens.grid, tokens.slot.device)
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
        tokens, pairs = _attention(layer, tokens, apply, attend, policy, index)
        tokens, gate = _decide(policy, Site.MIDDLE, tokens, view, apply)
        entered, tokens = _remove(entered, tokens, apply, left)
        tokens = _ffn(layer, entered, tokens, apply)
        read, scored = tokens.count(tokens.presence), tokens.received is not None
        trace.layers.append(LayerTrace(keys, queries, read, scored, gate, pairs))
        trace.readers.append((tokens.slot, tokens.presence))
        tokens = apply.settle(entered, tokens)
        if policy.renorms and tokens.active is not None:
            tokens = _renorm_resting(tokens, layer, layers[index - 1])
        if policy.watches(index):
            trace.states[index] = (tokens.slot, tokens.hidden)
        tokens, _ = _decide(policy, Site.AFTER, tokens, view, apply)
        _, tokens = _remove(tokens, tokens, apply, left)
        if tokens.is_empty:
            break
    return tokens


def _attention(
    layer: Layer, tokens: Packed, apply: Apply, attend: Kernel, policy: Policy, index: int
) -> tuple[Packed, Tensor | None]:
    """Attend, and count the pairs of query and key where not all of a text attend to each other."""
    rows = _query_rows(tokens, apply)
    q, k, v = layer.qkv(tokens.hidden, tokens.position, rows)
    heard, measured = apply.heard(tokens), policy.measured(index)
    apart = policy.apart(index)
    texts = tokens.apart() if apart else tokens
    call = AttentionCall(
        q=q,
        k=k,
        v=v,
        cu_q=texts.cu if rows is None else texts.offsets(rows),
        cu_k=texts.cu,
        position_q=_pick(tokens.slot, rows),  # columns, not position ids, are what a window counts
        position_k=tokens.slot,
        window=layer.window,
        gate=heard.gate,
        vote=None if rows is not None or heard.presence is None else heard.presence,
        scored=policy.scored(index),
        measured=measured,
        dropout=layer.dropout,
    )
    attended = attend(call)
    hidden = layer.attended(attended.context, _pick(tokens.hidden, rows))
    hidden = _place(tokens.hidden, hidden, rows)
    if rows is None and tokens.active is not None:  # a policy sees those at rest as they rest
        hidden = torch.where(tokens.active[:, None], hidden, tokens.hidden)
    pairs = texts.count(tokens.presence) * texts.count(tokens.gate) if apart else None
    seen = _seen(tokens, rows, q, k, attended.normaliser) if measured else _UNSEEN
    return tokens.but(hidden=hidden, received=attended.received, **seen), (
        None if pairs is None else pairs.view(tokens.grid[0], -1).sum(1)
    )


def _seen(
    tokens: Packed, rows: Tensor | None, q: Tensor, k: Tensor, normaliser: Tensor | None
) -> dict[str, Tensor]:
    """Give every token its query; those at rest ask nothing, so their normaliser is infinite."""
    assert normaliser is not None  # the call asked for it
    if rows is not None:
        q = torch.zeros_like(k).index_copy(0, rows, q)
        silent = normaliser.new_full(k.shape[:2], torch.inf)
        normaliser = silent.index_copy(0, rows, normaliser)
    elif tokens.active is not None:
        normaliser = normaliser.masked_fill(~tokens.active[:, None], torch.inf)
    return {"query": q, "key": k, "normaliser": normaliser}


def _ffn(layer: Layer, entered: Packed, tokens: Packed, apply: Apply) -> Packed:
    rows = _query_rows(tokens, apply)
    return tokens.with_hidden(_place(entered.hidden, layer.ffn(_pick(tokens.hidden, rows)), rows))


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
    asked.trace.hear(decision)
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
        left.append((_pick(entered.slot, gone), _pick(entered.hidden, gone)))
        tokens = tokens.take(stays)
        entered = tokens if tokens.active is None else entered.take(stays)  # read by those at rest
    return entered, tokens.but(alive=None)


def _query_rows(tokens: Packed, apply: Apply) -> Tensor | None:
    """Rows that are queries, `None` for all; while freezing is only played, all are computed."""
    if tokens.active is None or not apply.removes:
        return None
    return tokens.active.nonzero().squeeze(1)


def _pick(values: Tensor, rows: Tensor | None) -> Tensor:
    return values if rows is None else values.index_select(0, rows)


def _place(base: Tensor, values: Tensor, rows: Tensor | None) -> Tensor:
    return values if rows is None else base.to(values.dtype).index_copy(0, rows, values)


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
