"""Reformer (Kitaev et al., ICLR 2020, https://arxiv.org/abs/2001.04451): attention by LSH.

Queries are keys. Tokens are hashed r times, sorted by bucket and column, and cut into chunks of m;
a token reads those of its bucket in its own chunk and the one before.

    k_j = q_j / ||q_j||        bucket(x) = argmax [x R; -x R]
    o_i = sum over rounds of exp(z_r - z) o_i^r        z_r, z: logsumexp of a round, of all rounds

A pair that meets in N rounds counts 1/N in each (the paper's appendix A). A token reads itself only
where it finds nobody else. O(r n m d).

What differs from the arena's code, and why:

- Scores are divided by sqrt(d), where theirs were multiplied; heads and columns are not mixed up.
- Keys are normalised, a token does not read itself, padding is sorted to the end and not read: all
  three as published, none as theirs.
- R is drawn for each layer, head and round, where theirs was the same for all.
- The first chunk has none before it. The authors' reads the last, which would make a text's answer
  depend on the number of columns.
- R is drawn once and not at each step, so that a text is always read the same way.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from fewer.kernels.call import masked_score
from fewer_lra.attentions.base import Attention, AttentionShape, Heads, Mask, States, positive

__all__ = ["Reformer"]

ITSELF = -1e5  # score of a token with itself: below all others, above `masked_score`


class Reformer(Attention):
    """Tokens read those that hash to the same bucket."""

    reads = ("q", "v")
    rotations: Tensor

    def __init__(
        self, shape: AttentionShape, *, chunk: int = 50, hashes: int = 2, buckets: int | None = None
    ) -> None:
        super().__init__(shape)
        self.chunk = positive("chunk", chunk)
        if buckets is None:  # as many tokens in a bucket as in a chunk
            buckets = 2 * -(-shape.max_length // (2 * chunk))
        if buckets < 2 or buckets % 2:
            raise ValueError(f"buckets is {buckets}, wanted an even number: they come in pairs")
        size = (shape.heads, positive("hashes", hashes), shape.width, buckets // 2)
        generator = torch.Generator().manual_seed(shape.layer)
        self.register_buffer("rotations", torch.randn(size, generator=generator))  # R

    def forward(self, q: Heads, k: Heads, v: Heads, hidden: States, mask: Mask) -> Heads:
        """Attend; `k` is not read."""
        length, more = q.shape[2], -q.shape[2] % self.chunk
        q, v = (F.pad(side, (0, 0, 0, more)) for side in (q, v))
        bucket = self.bucket(q, F.pad(mask, (0, more)))  # (B, H, r, n)
        order = bucket.argsort(dim=-1, stable=True)
        place = order.argsort(-1)
        own = self._chunks(order)  # columns, (B, H, r, c, m)
        seen = self._meetings(bucket, place, order)  # (B, H, r, c, m, 2m)
        keys = F.normalize(q, dim=-1) * q.shape[-1] ** -0.5
        scores = self._rows(q, order) @ _with_former(self._rows(keys, order)).transpose(-1, -2)
        scores = scores - seen.clamp_min(1).log()
        scores = scores.masked_fill(own[..., None] == _with_former(own)[..., None, :], ITSELF)
        scores = scores.masked_fill(seen == 0, masked_score(scores.dtype))
        weights = F.dropout(scores.softmax(-1), self.dropout).to(v.dtype)
        context = weights @ _with_former(self._rows(v, order))  # (B, H, r, c, m, d)
        sums = scores.logsumexp(-1, keepdim=True)
        sums, context = (_picked(side.flatten(3, 4), place) for side in (sums, context))
        return (sums.softmax(2).to(v.dtype) * context).sum(2)[:, :, :length]

    @torch.no_grad()
    def bucket(self, q: Heads, mask: Mask) -> Int[Tensor, "B H r n"]:
        """Hash each token; padding comes after all buckets."""
        with torch.autocast(q.device.type, enabled=False):  # in bf16 there would be ties
            turned = q[:, :, None].to(self.rotations) @ self.rotations  # (B, H, r, n, buckets / 2)
        found = torch.cat((turned, -turned), -1).argmax(-1)
        return found.masked_fill(~mask[:, None, None], 2 * self.rotations.shape[-1])

    def _chunks(self, values: Tensor) -> Tensor:
        """Cut `(B, H, r, n, ...)` into chunks, `(B, H, r, c, m, ...)`."""
        cut: Tensor = values.unflatten(3, (-1, self.chunk))
        return cut

    def _rows(self, values: Tensor, order: Int[Tensor, "B H r n"]) -> Tensor:
        """Put `(B, H, n, d)` in the order of each round, chunk by chunk: `(B, H, r, c, m, d)`."""
        each = values[:, :, None].expand(-1, -1, order.shape[2], -1, -1)
        return self._chunks(_picked(each, order))

    @torch.no_grad()
    def _meetings(
        self, bucket: Tensor, place: Tensor, order: Tensor
    ) -> Int[Tensor, "B H r c m 2*m"]:
        """Count the rounds in which a query meets a key; 0 where they do not in this round."""
        rounds = bucket.shape[2]
        own = self._rows(torch.cat((bucket, place // self.chunk), 2).transpose(2, 3), order)
        both = _with_former(own)  # of the first chunk's predecessor: no bucket, -1
        met = []
        for one in range(rounds):
            same = own[..., one][..., None] == both[..., one][..., None, :]
            behind = own[..., rounds + one][..., None] - both[..., rounds + one][..., None, :]
            met.append(same & (behind >= 0) & (behind <= 1))
        here = torch.stack([met[one][:, :, one] for one in range(rounds)], 2)
        return torch.stack(met).sum(0) * here


def _picked(
    rows: Float[Tensor, "B H r n d"], wanted: Int[Tensor, "B H r n"]
) -> Float[Tensor, "B H r n d"]:
    """Pick rows of each round; `take_along_dim` does it in five times the time on a CPU."""
    return rows.gather(3, wanted[..., None].expand(-1, -1, -1, -1, rows.shape[-1]))


def _with_former(chunks: Float[Tensor, "B H r c m ..."]) -> Float[Tensor, "B H r c 2*m ..."]:
    """Put the chunk before in front of each; before the first, -1."""
    none = torch.full_like(chunks[:, :, :, :1], -1)
    return torch.cat((torch.cat((none, chunks[:, :, :, :-1]), 3), chunks), 4)
