"""A layer whose attention is given, for examples that are computed with a pencil."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fewer import Policy, Trace
from fewer.core.cost import LayerCost, ModelSpec
from fewer.core.encode import encode
from fewer.core.packed import Packed, plan
from fewer.core.phase import INFERENCE
from fewer.kernels import KERNELS

# Two heads. The first token receives most from the others; then by column, over both heads:
#   token 1: 0.2 + 0.4 + 0.1 + 0.1 = 0.8 from others, 1.9 with the 0.2 + 0.9 it gives itself
#   token 2: 0.3 + 0.5 + 0.3 + 0.05 = 1.15 from others, 1.85 with its own 0.2 + 0.5
ATTENTION = torch.tensor(
    [
        [[0.5, 0.2, 0.3], [0.3, 0.2, 0.5], [0.4, 0.4, 0.2]],
        [[0.6, 0.1, 0.3], [0.05, 0.9, 0.05], [0.4, 0.1, 0.5]],
    ]
)
SPEC = ModelSpec(2, 1, 2, 0.0, (LayerCost(1, 2, 1, 8, 4, 2),) * 2)


@dataclass(frozen=True)
class PencilLayer:
    """Attends as above and adds 10 in its feed-forward network; attention changes no state.

    Keys are unit vectors and queries the logarithms of a row, so that softmax gives the row back.
    """

    pattern: None = None
    dropout: float = 0.0

    def relative_scores(self):
        return None

    def qkv(self, hidden: Tensor, position: Tensor, rows: Any) -> tuple[Tensor, ...]:
        q = ATTENTION.log().transpose(0, 1)[position] * 3**0.5  # kernels divide by sqrt(d)
        k = torch.eye(3)[position][:, None].expand(-1, 2, -1)
        return q if rows is None else q[rows], k, torch.zeros_like(k)

    def attended(self, context: Tensor, hidden: Tensor) -> Tensor:
        return hidden

    def ffn(self, hidden: Tensor) -> Tensor:
        return hidden + 10


def three_tokens() -> Packed:
    """Lay out one text with the states 1, 2 and 3; the first token is protected."""
    where = plan(None, (1, 3), torch.device("cpu"))
    hidden = torch.tensor([[1.0], [2.0], [3.0]])
    return Packed.start(where, hidden, where.column, where.column == 0)


def run(policy: Policy, apply: str = "compact", kernel: str = "reference") -> tuple[Any, Trace]:
    """Run the three tokens through two layers: their last states, and the trace."""
    layers: Any = (PencilLayer(), PencilLayer())
    phase = replace(INFERENCE, apply=apply)
    states, trace = encode(layers, policy, three_tokens(), phase=phase, attend=KERNELS[kernel])
    return states[0, :, 0].tolist(), trace
