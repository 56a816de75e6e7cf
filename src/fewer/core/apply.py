"""How a decision is carried out: the only difference between training and inference.

| name | pruned tokens | use |
|---|---|---|
| `compact` | leave memory | inference, and training with hard decisions |
| `mask` | stay in memory, unread, their state frozen | the oracle `compact` is tested against |
| `soften` | fade: gate g adds log g to their scores, slows them | training; tends to `mask` |
| `soften_output` | their layer's output is scaled by the gate | LTP as published |
| `scale_state` | their state is scaled by the gate at once | soft extraction of PoWER-BERT |
| `observe` | none: only heads compute, no text exits | to train heads, to calibrate |

Under `observe`, parts of a stack that were trained before are carried out as under `compact`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fewer.core.decision import Decision
from fewer.core.packed import Packed
from fewer.core.partition import can_look

__all__ = ["APPLIES", "Apply"]

# A token that takes part by less has no weight in fp32. Left as it is, its products with other
# small numbers are denormal, which slows a CPU down several times.
FADED = 1e-12


@dataclass(frozen=True)
class Apply:
    """A way to carry decisions out, in three moves."""

    name: str
    carry_out: Callable[[Packed, Decision], Packed]  # mark what was decided on the tokens
    # the states of a layer, of the tokens as they entered it and after it
    settle: Callable[[Packed, Packed], Packed] = lambda entered, tokens: tokens
    attends_by_gate: bool = True  # whether gates weigh keys and queries in attention
    removes: bool = False  # whether pruned tokens leave memory


def _kept(decision: Decision) -> Tensor:
    keep = decision.kept
    assert keep is not None  # the loop carries out only decisions about some token
    return keep


def _freeze(tokens: Packed, decision: Decision) -> Packed:
    if not decision.freezes:
        return tokens
    frozen = decision.frozen
    if can_look(frozen) and not bool(frozen.any()):
        return tokens
    active = ~frozen
    return tokens.replace(active=active if tokens.active is None else tokens.active & active)


def _prune(tokens: Packed, decision: Decision) -> Packed:
    alive = _kept(decision) if tokens.alive is None else tokens.alive & _kept(decision)
    return _freeze(tokens, decision).replace(alive=alive)


def _mask(tokens: Packed, decision: Decision) -> Packed:
    keep = _kept(decision).to(torch.float32)
    gate = keep if tokens.gate is None else tokens.gate * keep
    return _prune(tokens, decision).replace(gate=gate)


def _gate_of(decision: Decision) -> Tensor:
    return _kept(decision).to(torch.float32) if decision.gate is None else decision.gate


def _fade(tokens: Packed, decision: Decision) -> Packed:
    gate = _gate_of(decision)
    gate = gate if tokens.gate is None else tokens.gate * gate
    return _freeze(tokens, decision).replace(gate=gate.masked_fill(gate < FADED, 0.0))


def _scale_later(tokens: Packed, decision: Decision) -> Packed:
    return _freeze(tokens, decision).replace(gate=decision.gate)


def _scale_now(tokens: Packed, decision: Decision) -> Packed:
    gate = _column(_gate_of(decision), tokens.hidden)
    return _freeze(tokens, decision).replace(hidden=tokens.hidden * gate)


def _keep_state(entered: Packed, tokens: Packed) -> Packed:
    """Move a token that takes part by g only g of the way from the state it entered with.

    At g = 0 it is frozen, as if it had left.
    """
    participation = tokens.participation
    if participation is None:
        return tokens
    new = tokens.hidden
    # lerp is exact at 0 and at 1, which a + g * (b - a) is not
    mixed = torch.lerp(entered.hidden.to(new.dtype), new, _column(participation, new))
    return tokens.replace(hidden=mixed)


def _scale_output(entered: Packed, tokens: Packed) -> Packed:
    if tokens.gate is None:
        return tokens
    return tokens.replace(hidden=tokens.hidden * _column(tokens.gate, tokens.hidden), gate=None)


def _column(gate: Tensor, like: Tensor) -> Tensor:
    return gate.to(like.dtype).unsqueeze(1)


APPLIES: dict[str, Apply] = {
    apply.name: apply
    for apply in (
        Apply("compact", _prune, removes=True),
        Apply("mask", _mask, _keep_state),
        Apply("soften", _fade, _keep_state),
        Apply("soften_output", _scale_later, _scale_output, attends_by_gate=False),
        Apply("scale_state", _scale_now),
        Apply("observe", _prune, removes=True),
    )
}
