"""Reformer (Kitaev et al., ICLR 2020, https://arxiv.org/abs/2001.04451): attention by LSH.

Queries are keys. Tokens are hashed r times, sorted by bucket and column, and cut into chunks of m.
A token reads the tokens of its bucket in its chunk and the chunk before.

    k_j = q_j / ||q_j||        bucket(x) = argmax [x R; -x R]
    o_i = sum over rounds of exp(z_r - z) o_i^r        z_r, z: logsumexp of a round, of all rounds

A pair that shares a bucket in N rounds counts 1/N in each (the paper's appendix A). A token reads
itself only if it reads no other token. O(r n m d).

What differs from the arena's code, and why:

- Scores are divided by sqrt(d), where theirs were multiplied; heads and columns are not mixed up.
- Keys are normalised, a token does not read itself, padding is sorted to the end and not read, as
  published; their code does none of this.
- R is drawn per layer, head and round; theirs was shared.
- The first chunk has no chunk before it. The authors' reads the last, so an output would depend on
  the number of columns.
- R is drawn once and not at each step, so that attention is deterministic.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, MultipleOf
from jaxtyping import Float, Int
from torch import Tensor

from fewer._validation.settings import checked
from fewer._validation.types import Count, Whole
from fewer.kernels.call import masked_score
from fewer_lra.attentions.base import Attention, AttentionSpec, Heads, Mask, States

__all__ = ["ReformerAttention"]

SELF_SCORE = -1e5  # score of a token with itself: below all others, above `masked_score`


class ReformerAttention(Attention):
    """Tokens read the tokens of their bucket."""

    inputs = ("q", "v")
    rotations: Tensor

    @checked
    def __init__(
        self,
        spec: AttentionSpec,
        *,
        chunk: Count = 50,
        hashes: Count = 2,
        buckets: Annotated[Whole, Ge(2), MultipleOf(2)] | None = None,  # they come in pairs
    ) -> None:
        super().__init__(spec)
        self.chunk = chunk
        if buckets is None:  # as many tokens per bucket as per chunk
            buckets = 2 * -(-spec.max_length // (2 * chunk))
        size = (spec.heads, hashes, spec.width, buckets // 2)
        generator = torch.Generator().manual_seed(spec.layer)
        self.register_buffer("rotations", torch.randn(size, generator=generator))  # R

    def forward(self, q: Heads, k: Heads, v: Heads, hidden: States, mask: Mask) -> Heads:
        """Attend; `k` is not read."""
        length, padding = q.shape[2], -q.shape[2] % self.chunk
        q, v = (F.pad(states, (0, 0, 0, padding)) for states in (q, v))
        bucket = self.bucket(q, F.pad(mask, (0, padding)))  # (B, H, r, n)
        order = bucket.argsort(dim=-1, stable=True)
        rank = order.argsort(-1)  # position of each token in the order
        columns = self._chunks(order)  # (B, H, r, c, m)
        rounds = self._count_shared_rounds(bucket, rank, order)  # (B, H, r, c, m, 2m)
        keys = F.normalize(q, dim=-1) * q.shape[-1] ** -0.5
        keys = _prepend_previous(self._sort(keys, order))
        scores = self._sort(q, order) @ keys.transpose(-1, -2)
        scores = scores - rounds.clamp_min(1).log()
        is_self = columns[..., None] == _prepend_previous(columns)[..., None, :]
        scores = scores.masked_fill(is_self, SELF_SCORE)
        scores = scores.masked_fill(rounds == 0, masked_score(scores.dtype))
        weights = F.dropout(scores.softmax(-1), self.dropout).to(v.dtype)
        context = weights @ _prepend_previous(self._sort(v, order))  # (B, H, r, c, m, d)
        sums = scores.logsumexp(-1, keepdim=True)
        sums, context = (_gather(values.flatten(3, 4), rank) for values in (sums, context))
        return (sums.softmax(2).to(v.dtype) * context).sum(2)[:, :, :length]

    @torch.no_grad()
    def bucket(self, q: Heads, mask: Mask) -> Int[Tensor, "B H r n"]:
        """Hash each token; padding comes after all buckets."""
        with torch.autocast(q.device.type, enabled=False):  # in bf16 there would be ties
            rotated = q[:, :, None].to(self.rotations) @ self.rotations  # (B, H, r, n, buckets / 2)
        bucket = torch.cat((rotated, -rotated), -1).argmax(-1)
        return bucket.masked_fill(~mask[:, None, None], 2 * self.rotations.shape[-1])

    def _chunks(self, values: Tensor) -> Tensor:
        """Cut `(B, H, r, n, ...)` into chunks, `(B, H, r, c, m, ...)`."""
        chunks: Tensor = values.unflatten(3, (-1, self.chunk))
        return chunks

    def _sort(self, values: Tensor, order: Int[Tensor, "B H r n"]) -> Tensor:
        """Sort `(B, H, n, d)` in the order of each round, in chunks: `(B, H, r, c, m, d)`."""
        repeated = values[:, :, None].expand(-1, -1, order.shape[2], -1, -1)
        return self._chunks(_gather(repeated, order))

    @torch.no_grad()
    def _count_shared_rounds(
        self, bucket: Tensor, rank: Tensor, order: Tensor
    ) -> Int[Tensor, "B H r c m 2*m"]:
        """Count the rounds in which a query reads a key; 0 where it does not in this round."""
        rounds = bucket.shape[2]
        features = torch.cat((bucket, rank // self.chunk), 2).transpose(2, 3)
        queries = self._sort(features, order)  # bucket and chunk of every round
        keys = _prepend_previous(queries)  # -1, no bucket, before the first chunk
        shared = []
        for index in range(rounds):
            same = queries[..., index][..., None] == keys[..., index][..., None, :]
            chunk = rounds + index
            distance = queries[..., chunk][..., None] - keys[..., chunk][..., None, :]
            shared.append(same & (distance >= 0) & (distance <= 1))
        current = torch.stack([shared[index][:, :, index] for index in range(rounds)], 2)
        return torch.stack(shared).sum(0) * current


def _gather(
    rows: Float[Tensor, "B H r n d"], index: Int[Tensor, "B H r n"]
) -> Float[Tensor, "B H r n d"]:
    """Select rows of each round; `take_along_dim` takes five times as long on a CPU."""
    return rows.gather(3, index[..., None].expand(-1, -1, -1, -1, rows.shape[-1]))


def _prepend_previous(
    chunks: Float[Tensor, "B H r c m ..."],
) -> Float[Tensor, "B H r c 2*m ..."]:
    """Put the previous chunk before each chunk; -1 before the first."""
    none = torch.full_like(chunks[:, :, :, :1], -1)
    return torch.cat((torch.cat((none, chunks[:, :, :, :-1]), 3), chunks), 4)
