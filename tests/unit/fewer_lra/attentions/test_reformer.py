from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fewer_lra.attentions.reformer import ReformerAttention
from tests.unit.fewer_lra.attentions.cases import LENGTHS, LONGEST, WIDTH, batch, softmax_of, spec


def shared(q: Tensor, v: Tensor, pairs: Tensor) -> Tensor:
    """Shared-QK softmax over pairs; a token reads itself where there is nobody else."""
    scores = q @ F.normalize(q, dim=-1).transpose(-1, -2) / WIDTH**0.5
    itself = torch.eye(q.shape[-2], dtype=torch.bool)
    alone = ~(pairs & ~itself).any(-1, keepdim=True)
    return softmax_of(scores, v, torch.where(alone, itself, pairs & ~itself))


@pytest.mark.parametrize("hashes", [1, 3])
def test_one_bucket_in_one_chunk_is_softmax_attention_with_shared_queries(hashes: int) -> None:
    attention = ReformerAttention(spec(), chunk=LONGEST, hashes=hashes).eval()
    attention.rotations.zero_()  # everything hashes to bucket 0
    given = batch()
    wanted = shared(given.q, given.v, given.mask[:, None, None].expand(-1, 2, LONGEST, -1))
    torch.testing.assert_close(attention(*given)[given.real], wanted[given.real])


@pytest.mark.parametrize("hashes", [1, 2, 5])
def test_it_is_a_softmax_over_those_met_in_any_round(hashes: int) -> None:
    attention = ReformerAttention(spec(), chunk=3, hashes=hashes, buckets=4).eval()
    given = batch()
    got, bucket = attention(*given), attention.bucket(given.q, given.mask)
    for text, n in enumerate(LENGTHS):
        met = torch.zeros(2, n, n, dtype=torch.bool)
        for head in range(2):
            for one in bucket[text, head, :, :n]:
                order = sorted(range(n), key=lambda i, one=one: (int(one[i]), i))
                chunk = torch.tensor([order.index(i) // 3 for i in range(n)])
                behind = chunk[:, None] - chunk
                met[head] |= (one[:, None] == one) & (behind >= 0) & (behind <= 1)
        wanted = shared(given.q[text, :, :n], given.v[text, :, :n], met)
        torch.testing.assert_close(got[text, :, :n], wanted)


def test_like_tokens_hash_alike_and_opposite_ones_never() -> None:
    attention = ReformerAttention(spec(), buckets=8, hashes=4).eval()
    given = batch([LONGEST])
    bucket = attention.bucket(given.q, given.mask)
    assert torch.equal(attention.bucket(3 * given.q, given.mask), bucket)
    assert torch.equal(attention.bucket(-given.q, given.mask), (bucket + 4) % 8)
    assert bucket.unique().tolist() == [*range(8)]


def test_padding_hashes_behind_all_buckets() -> None:
    attention, given = ReformerAttention(spec(), buckets=4), batch()
    bucket = attention.bucket(given.q, given.mask)
    padding = ~given.mask[:, None, None].expand_as(bucket)
    assert (bucket[padding] == 4).all()
    assert (bucket[~padding] < 4).all()


def test_there_are_as_many_buckets_as_chunks_unless_told_otherwise() -> None:
    assert ReformerAttention(spec(max_length=1001)).rotations.shape[-1] * 2 == 22
    assert ReformerAttention(spec(max_length=7)).rotations.shape[-1] * 2 == 2
