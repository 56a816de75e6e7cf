"""What an attention kernel is given and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fewer.kernels.sparse import SparseLayout

__all__ = ["Attended", "AttentionCall", "Kernel", "log_gate", "never"]


@dataclass(frozen=True)
class AttentionCall:
    """Attention within each text of a packed batch.

    Query rows and key rows are apart: frozen tokens are only keys.

    The scores are `q . k / sqrt(d)`, plus `log(gate)` of the key, where `|position_q - position_k|
    <= window` or the key is free, or where the pattern of `sparse` says so (then there is no
    window). A query whose every key is too far or gone gets something finite, no more.
    """

    q: Float[Tensor, "Tq H d"]
    k: Float[Tensor, "Tk H d"]
    v: Float[Tensor, "Tk H d"]
    cu_q: Int[Tensor, "B+1"]
    cu_k: Int[Tensor, "B+1"]
    # original positions, needed by a window: it does not shrink when tokens leave
    position_q: Int[Tensor, "Tq"] | None = None
    position_k: Int[Tensor, "Tk"] | None = None
    window: int | None = None  # farthest distance read
    # keys that are read from any distance, in spite of the window; the first ones of their text
    free: Bool[Tensor, "Tk"] | None = None
    sparse: SparseLayout | None = None  # which pairs there are; None: all of a text
    gate: Float[Tensor, "Tk"] | None = None  # how far each key takes part, 0..1; None: all do
    vote: Float[Tensor, "Tq"] | None = None  # weight of each query in the score, 0..1; None: all 1
    scored: bool = False  # whether attention received is wanted
    measured: bool = False  # whether the normaliser of each query's softmax is wanted
    dropout: float = 0.0  # of the attention probabilities; the score is taken before it
    training: bool = False  # whether to give the bits of a pass with gradients, also without them

    def by_window(self) -> AttentionCall:
        """Say with a window what a pattern says that is nothing more."""
        own = self.sparse
        assert own is not None
        return replace(
            self,
            position_q=own.asking.column,
            position_k=own.asked.column,
            window=own.pattern.window,
            sparse=None,
        )


@dataclass(frozen=True)
class Attended:
    """The attention's output, heads side by side, and the evidence that was asked for."""

    context: Float[Tensor, "Tq H*d"]
    received: Float[Tensor, "Tk"] | None = None
    # log of the sum of a query's exponentials: A[h, i, j] = exp(score[h, i, j] - normaliser[i, h])
    logsumexp: Float[Tensor, "Tq H"] | None = None


class Kernel(Protocol):
    """Any function of this form can carry out attention.

    `tests/contract` holds each to the reference.
    """

    def __call__(self, call: AttentionCall) -> Attended:
        """Attend."""
        ...


def log_gate(gate: Tensor) -> Tensor:
    """Return log g in fp32, with a floor of -87, and `never` where g is 0.

    A gate of 0 silences its key, whatever its score, yet no row and no gradient is NaN.
    """
    gate = gate.float()
    floored = gate.clamp_min(torch.finfo(torch.float32).tiny).log()
    return floored.masked_fill(gate == 0, never(torch.float32))


def never(dtype: torch.dtype) -> float:
    """Return the score of a pair that must not attend.

    It vanishes in a softmax, yet a row of nothing else stays finite.
    """
    return torch.finfo(dtype).min / 4
