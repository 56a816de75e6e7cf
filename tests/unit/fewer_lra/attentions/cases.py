"""Small layers and ragged batches for every attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewer_lra.attentions import Attention, AttentionSpec, build

HEADS, WIDTH, HIDDEN, LONGEST = 2, 4, 12, 24
LENGTHS = (24, 1, 17, 2, 9)
SMALL: dict[str, dict[str, Any]] = {  # several blocks, chunks and buckets in 24 columns
    "local": {"block": 5},
    "sparse": {"block": 5, "summary": 2},
    "longformer": {"window": 6},
    "linformer": {"rank": 3},
    "reformer": {"chunk": 4, "hashes": 3, "buckets": 4},
    "sinkhorn": {"block": 5},
    "bigbird": {"block": 2, "random": 2},
    "performer": {"features": 16},
}


class Batch(NamedTuple):
    q: Tensor
    k: Tensor
    v: Tensor
    hidden: Tensor
    mask: Tensor

    @property
    def real(self) -> Tensor:
        """Which elements of a context count, `(B, H, n, d)`."""
        return self.mask[:, None, :, None].expand_as(self.v)

    def of(self, texts: Any, columns: int | None = None) -> Batch:
        """Pick texts, and cut their columns."""
        q, k, v = (side[texts][:, :, :columns] for side in self[:3])
        return Batch(q, k, v, self.hidden[texts][:, :columns], self.mask[texts][:, :columns])

    def padded_with(self, value: float) -> Batch:
        *sides, hidden, mask = self
        sides = [torch.where(self.real, side, value) for side in sides]
        return Batch(*sides, torch.where(mask[..., None], hidden, value), mask)


def batch(lengths: Sequence[int] = LENGTHS, columns: int | None = None) -> Batch:
    columns = max(lengths) if columns is None else columns
    q, k, v = torch.randn(3, len(lengths), HEADS, columns, WIDTH)
    hidden = torch.randn(len(lengths), columns, HIDDEN)
    return Batch(q, k, v, hidden, torch.arange(columns) < torch.tensor(lengths)[:, None])


def spec(**changes: Any) -> AttentionSpec:
    sizes = {"heads": HEADS, "width": WIDTH, "hidden": HIDDEN, "max_length": LONGEST}
    return AttentionSpec(**{**sizes, **changes})


def small(name: str, **options: Any) -> Attention:
    return build(name, spec(), {**SMALL.get(name, {}), **options}).eval()


def softmax_of(scores: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """Average values by the softmax over the pairs that are seen, in the plainest way."""
    return scores.masked_fill(~seen, -torch.inf).softmax(-1).nan_to_num() @ v


def plain(given: Batch, pairs: Tensor | None = None) -> Tensor:
    """Softmax attention over pairs `(n, n)`; `None`: over all."""
    scores = given.q @ given.k.transpose(2, 3) / WIDTH**0.5
    seen = given.mask[:, None, None].expand_as(scores)
    return softmax_of(scores, given.v, seen if pairs is None else seen & pairs)
