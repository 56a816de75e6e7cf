"""Scores that depend on the distance of a query and a key, as in DeBERTa's disentangled attention.

DeBERTa (https://arxiv.org/abs/2006.03654), eq. 4: content to position and position to content are
gathered from tables of one column per bucket of distances, so that no matrix of a text is formed
beside that of its scores.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["RelativeScores"]


@dataclass(frozen=True)
class RelativeScores:
    """What a layer adds to the scores of a call, by the distance of original positions.

    `score[h, i, j] += (q[i, h] . key[b, h] + k[j, h] . query[b, h]) / sqrt(d)` with
    `b = bucket[reach + position_q[i] - position_k[j]]`; distances beyond the reach count as it.
    """

    bucket: Int[Tensor, "2*reach+1"]  # row of the distances -reach .. reach; int32
    key: Float[Tensor, "R H d"] | None = None  # position keys, for queries: content to position
    query: Float[Tensor, "R H d"] | None = None  # position queries, for keys: position to content

    @property
    def reach(self) -> int:
        """The farthest distance that has a bucket of its own."""
        return len(self.bucket) // 2

    def to(self, dtype: torch.dtype) -> RelativeScores:
        """Cast the projected positions."""
        return replace(
            self,
            key=None if self.key is None else self.key.to(dtype),
            query=None if self.query is None else self.query.to(dtype),
        )

    def select_head(self, head: int) -> RelativeScores:
        """Keep one head."""
        kept = slice(head, head + 1)
        return replace(
            self,
            key=None if self.key is None else self.key[:, kept],
            query=None if self.query is None else self.query[:, kept],
        )

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
        kept = slice(first, last + 1)
        narrowed = replace(
            self,
            key=None if self.key is None else self.key[kept],
            query=None if self.query is None else self.query[kept],
        )
        return narrowed, buckets - first

    def scores(
        self,
        q: Float[Tensor, "*b H q d"],
        k: Float[Tensor, "*b H k d"],
        buckets: Int[Tensor, "*b q k"],
    ) -> Float[Tensor, "*b H q k"]:
        """Return what is added to `q . k`, before both are divided by sqrt(d)."""
        index = buckets.unsqueeze(-3).expand(*q.shape[:-1], k.shape[-2])
        scores = q.new_zeros(index.shape)
        if self.key is not None:
            columns = q @ self.key.permute(1, 2, 0)  # (*b, H, q, R)
            scores = columns.gather(-1, index)
        if self.query is not None:
            rows = self.query.transpose(0, 1) @ k.transpose(-1, -2)  # (*b, H, R, k)
            scores = scores + rows.gather(-2, index)
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
        return scores
