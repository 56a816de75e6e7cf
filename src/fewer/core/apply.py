"""How a decision is carried out: the only difference between training and inference.

| name | the gone | use |
|---|---|---|
| `compact` | leave memory | inference, and training with hard decisions |
| `mask` | stay in memory, unread, their state at rest | the oracle `compact` is tested against |
| `soften` | fade: gate g adds log g to their scores, slows them | training; tends to `mask` |
| `soften_output` | their layer's output is scaled by the gate | LTP as published; tends elsewhere |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fewer.core.decision import Decision
from fewer.core.packed import Packed

__all__ = ["APPLIES", "Apply"]

# A token that takes part by less has no weight in fp32. Left as it is, its products with other
# small numbers are denormal, which slows a CPU down several times.
FADED = 1e-12


@dataclass(frozen=True)
class Apply:
    """A way to carry decisions out, in three moves.

    Note a decision on the tokens, say which gates attention hears, settle the states of a layer.
    """

    name: str
    carry: Callable[[Packed, Decision], Packed]
    heard: Callable[[Packed], Packed]
    settle: Callable[[Packed, Packed], Packed]
    removes: bool = False


def _stays(decision: Decision) -> Tensor:
    stays = decision.stays
    assert stays is not None  # the loop carries out only decisions about some token
    return stays


def _resting(tokens: Packed, decision: Decision) -> Packed:
    if not decision.freezes:
        return tokens
    active = ~decision.rests
    return tokens.but(active=active if tokens.active is None else tokens.active & active)


def _leave(tokens: Packed, decision: Decision) -> Packed:
    alive = _stays(decision) if tokens.alive is None else tokens.alive & _stays(decision)
    return _resting(tokens, decision).but(alive=alive)


def _silence(tokens: Packed, decision: Decision) -> Packed:
    stays = _stays(decision).to(torch.float32)
    return _leave(tokens, decision).but(gate=stays if tokens.gate is None else tokens.gate * stays)


def _fade(tokens: Packed, decision: Decision) -> Packed:
    gate = _stays(decision).to(torch.float32) if decision.gate is None else decision.gate
    gate = gate if tokens.gate is None else tokens.gate * gate
    return _resting(tokens, decision).but(gate=gate.masked_fill(gate < FADED, 0.0))


def _scale_later(tokens: Packed, decision: Decision) -> Packed:
    return _resting(tokens, decision).but(gate=decision.gate)


def _as_they_are(tokens: Packed) -> Packed:
    return tokens


def _all(tokens: Packed) -> Packed:
    return tokens if tokens.gate is None else tokens.but(gate=None)


def _settled(entered: Packed, tokens: Packed) -> Packed:
    return tokens


def _keep_state(entered: Packed, tokens: Packed) -> Packed:
    """Move a token that takes part by g only g of the way from the state it entered with.

    At g = 0 it rests, as if it had left.
    """
    presence = tokens.presence
    if presence is None:
        return tokens
    new = tokens.hidden
    # lerp is exact at 0 and at 1, which a + g * (b - a) is not
    return tokens.with_hidden(torch.lerp(entered.hidden.to(new.dtype), new, _column(presence, new)))


def _scale_output(entered: Packed, tokens: Packed) -> Packed:
    if tokens.gate is None:
        return tokens
    return tokens.but(hidden=tokens.hidden * _column(tokens.gate, tokens.hidden), gate=None)


def _column(gate: Tensor, like: Tensor) -> Tensor:
    return gate.to(like.dtype).unsqueeze(1)


APPLIES: dict[str, Apply] = {
    apply.name: apply
    for apply in (
        Apply("compact", carry=_leave, heard=_as_they_are, settle=_settled, removes=True),
        Apply("mask", carry=_silence, heard=_as_they_are, settle=_keep_state),
        Apply("soften", carry=_fade, heard=_as_they_are, settle=_keep_state),
        Apply("soften_output", carry=_scale_later, heard=_all, settle=_scale_output),
    )
}
