"""Scores that depend on the distance of a query and a key, as in DeBERTa and MPNet.

DeBERTa (https://arxiv.org/abs/2006.03654), eq. 4: content to position and position to content are
gathered from tables of one column per bucket of distances, so that no matrix of a text is formed
beside that of its scores. MPNet adds a number of each head and bucket, as T5 does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["RelativeScores"]


@dataclass(frozen=True)
class RelativeScores:
    """What a layer adds to the scores of a call, by the distance of original positions.

    `score[h, i, j] += (q[i, h] . key[b, h] + k[j, h] . query[b, h]) / sqrt(d) + bias[b, h]` with
    `b = bucket[reach + position_q[i] - position_k[j]]`; distances beyond the reach count as it.
    """

    bucket: Int[Tensor, "2*reach+1"]  # row of the distances -reach .. reach; int32
    key: Float[Tensor, "R H d"] | None = None  # position keys, for queries: content to position
    query: Float[Tensor, "R H d"] | None = None  # position queries, for keys: position to content
    bias: Float[Tensor, "R H"] | None = None

    @property
    def reach(self) -> int:
        """The farthest distance that has a bucket of its own."""
        return len(self.bucket) // 2

    def map(self, change: Callable[[Tensor], Tensor]) -> RelativeScores:
        """Change each of the tensors that are there, but for the buckets."""
        parts = (self.key, self.query, self.bias)
        return RelativeScores(
            self.bucket, *(None if part is None else change(part) for part in parts)
        )

    def to(self, dtype: torch.dtype) -> RelativeScores:
        """Cast all but the buckets."""
        return self.map(lambda part: part.to(dtype))

    def select_head(self, head: int) -> RelativeScores:
        """Keep one head."""
        return self.map(lambda part: part[:, head : head + 1])

    def buckets(
        self, position_q: Int[Tensor, "*b q"], position_k: Int[Tensor, "*b k"]
    ) -> Int[Tensor, "*b q k"]:
        """Return the bucket of each pair."""
        distance = position_q[..., :, None] - position_k[..., None, :]
        return self.bucket[distance.clamp(-self.reach, self.reach) + self.reach].long()

    def narrow(self, buckets: Int[Tensor, "*p"]) -> tuple[RelativeScores, Int[Tensor, "*p"]]:
        """Keep the rows between the buckets of these pairs; return the buckets in them too.

        Short texts have few distances.
        """
        if not buckets.numel():
            return self, buckets
        first, last = (int(bound) for bound in buckets.aminmax())
        return self.map(lambda part: part[first : last + 1]), buckets - first

    def scores(
        self,
        q: Float[Tensor, "*b H q d"],
        k: Float[Tensor, "*b H k d"],
        buckets: Int[Tensor, "*b q k"],
    ) -> Float[Tensor, "*b H q k"]:
        """Return what is added to `q . k`, before both are divided by sqrt(d)."""
        root = q.shape[-1] ** 0.5
        index = buckets.unsqueeze(-3).expand(*q.shape[:-1], k.shape[-2])
        scores = q.new_zeros(index.shape)
        if self.key is not None:
            columns = q @ self.key.permute(1, 2, 0)  # (*b, H, q, R)
            scores = columns.gather(-1, index)
        if self.query is not None:
            rows = self.query.transpose(0, 1) @ k.transpose(-1, -2)  # (*b, H, R, k)
            scores = scores + rows.gather(-2, index)
        if self.bias is not None:
            scores = scores + self.bias.movedim(-1, 0)[:, buckets].movedim(0, -3) * root
        return scores

    def scores_of_pairs(
        self,
        q: Float[Tensor, "P H d"],
        k: Float[Tensor, "P H d"],
        distance: Int[Tensor, "P"],
    ) -> Float[Tensor, "P H"]:
        """Return what is added to the score of each of some pairs, before the division; in fp32."""
        bucket = self.bucket[distance.clamp(-self.reach, self.reach) + self.reach]
        scores = torch.zeros(q.shape[:2], device=q.device)
        if self.key is not None:
            scores = scores + (q.float() * self.key[bucket].float()).sum(-1)
        if self.query is not None:
            scores = scores + (k.float() * self.query[bucket].float()).sum(-1)
        if self.bias is not None:
            scores = scores + self.bias[bucket].float() * q.shape[-1] ** 0.5
        return scores
