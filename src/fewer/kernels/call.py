"""Input and output of an attention kernel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fewer.kernels.relative import RelativeScores
from fewer.kernels.sparse import SparseLayout

__all__ = ["AttentionCall", "AttentionOutput", "Kernel", "log_gate", "masked_score"]


@dataclass(frozen=True)
class AttentionCall:
    """Attention within each text of a packed batch.

    Query rows and key rows are separate: frozen tokens are keys only.

    The scores are `q . k / sqrt(d)` plus `log(gate)` of the key, plus those of `relative`. A pair
    attends if `|position_q - position_k| <= window` or its key is exempt from the window, or, with
    `sparse` (then `window` is None), if the pattern contains it. The output of a query that sees no
    key is finite and otherwise undefined.
    """

    q: Float[Tensor, "Tq H d"]
    k: Float[Tensor, "Tk H d"]
    v: Float[Tensor, "Tk H d"]
    cu_q: Int[Tensor, "B+1"]
    cu_k: Int[Tensor, "B+1"]
    # original positions, read by windows and relative scores, which pruning does not change
    position_q: Int[Tensor, "Tq"] | None = None
    position_k: Int[Tensor, "Tk"] | None = None
    window: int | None = None  # largest distance between query and key
    # keys that are visible from any distance; they come first in their text
    window_exempt: Bool[Tensor, "Tk"] | None = None
    sparse: SparseLayout | None = None  # pairs that attend; None: all pairs of a text
    gate: Float[Tensor, "Tk"] | None = None  # weight of each key, 0..1; None: all 1
    query_weight: Float[Tensor, "Tq"] | None = (
        None  # weight of each query in `received`, 0..1; None: all 1
    )
    relative: RelativeScores | None = None  # scores by the distance of a pair
    needs_received: bool = False  # whether to return the attention that each key receives
    needs_logsumexp: bool = False  # whether to return the logsumexp of each query's scores
    dropout: float = 0.0  # of the attention probabilities; `received` is computed before it
    training: bool = False  # whether to compute bit for bit as with gradients, also without them
    is_consecutive: bool = False  # whether positions are known to have no gap in any text
    # at least the rows of queries and of keys of every text; None: unknown on the host
    max_length: int | None = None

    def with_window(self) -> AttentionCall:
        """Replace a pattern that is a band by the window that it equals."""
        sparse = self.sparse
        assert sparse is not None
        return replace(
            self,
            position_q=sparse.queries.column,
            position_k=sparse.keys.column,
            window=sparse.pattern.window,
            sparse=None,
        )


@dataclass(frozen=True)
class AttentionOutput:
    """The output of attention, heads concatenated, and the requested evidence."""

    context: Float[Tensor, "Tq H*d"]
    received: Float[Tensor, "Tk"] | None = None
    # log of the sum of a query's exponentials: A[h, i, j] = exp(score[h, i, j] - logsumexp[i, h])
    logsumexp: Float[Tensor, "Tq H"] | None = None


class Kernel(Protocol):
    """The signature of an attention kernel.

    `tests/contract` compares each kernel with the reference.
    """

    def __call__(self, call: AttentionCall) -> AttentionOutput:
        """Compute attention."""
        ...


def log_gate(gate: Tensor) -> Tensor:
    """Return log g in fp32, at least -87, and `masked_score` where g is 0.

    A gate of 0 masks its key, whatever its score, yet no row and no gradient is NaN.
    """
    gate = gate.float()
    floored = gate.clamp_min(torch.finfo(torch.float32).tiny).log()
    return floored.masked_fill(gate == 0, masked_score(torch.float32))


def masked_score(dtype: torch.dtype) -> float:
    """Return the score of a masked pair.

    Its probability is 0 in a softmax beside other scores, yet a row of masked pairs is finite.
    """
    return torch.finfo(dtype).min / 4
