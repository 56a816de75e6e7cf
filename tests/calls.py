"""Calls of attention kernels of every kind, and what it takes for two outputs to be the same."""

from dataclasses import dataclass

import pytest
import torch

from fewer.kernels import AttentionCall
from fewer.kernels.relative import RelativeScores
from tests.rounding import assert_same

# rows of queries and of keys for each text
SIZES = {
    "ragged": ((1, 9, 2, 5, 4), (1, 9, 2, 5, 4)),
    "one text": ((6,), (6,)),
    "one token": ((1,), (1,)),
    "all of one token": ((1, 1, 1), (1, 1, 1)),
    "all alike": ((4, 4, 4), (4, 4, 4)),
    "fewer queries": ((1, 3, 1, 5, 2), (1, 9, 2, 5, 4)),
    "texts without queries": ((0, 3, 0, 5, 1), (1, 9, 2, 5, 4)),
    "no query at all": ((0, 0), (3, 2)),
    "empty texts": ((0, 3, 0, 2), (0, 5, 0, 2)),
    "long beside short": ((40, 1, 39, 2, 3), (40, 1, 40, 2, 3)),
}
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
every_size = pytest.mark.parametrize("sizes", SIZES)


@dataclass(frozen=True)
class Extras:
    """What a call may ask for besides plain attention."""

    window: int | None = None
    gate: bool = False
    query_weight: bool = False
    needs_received: bool = False
    needs_logsumexp: bool = False
    relative: bool = False


EXTRAS = {
    "plain": Extras(),
    "window": Extras(window=2),
    "gate": Extras(gate=True),
    "scored": Extras(needs_received=True),
    "measured": Extras(needs_logsumexp=True),
    "votes": Extras(query_weight=True, needs_received=True),
    "everything": Extras(
        window=3, gate=True, query_weight=True, needs_received=True, needs_logsumexp=True
    ),
    "relative": Extras(relative=True),
    "relative and everything": Extras(
        window=3,
        gate=True,
        query_weight=True,
        needs_received=True,
        needs_logsumexp=True,
        relative=True,
    ),
}
every_extra = pytest.mark.parametrize("extras", EXTRAS)
every_triton_extra = pytest.mark.parametrize(
    "extras", [name for name, extras in EXTRAS.items() if not extras.relative]
)


def draw_call(sizes, extras, heads=2, width=4, dtype=torch.float32, scale=1.0):
    """Draw a call; queries are a part of the keys' tokens, which have gaps where some have left."""
    of_q, of_k = (torch.tensor(lengths) for lengths in SIZES[sizes])
    tokens_q, tokens_k = int(of_q.sum()), int(of_k.sum())
    columns = [torch.randperm(2 * int(n) + 1)[: int(n)].sort().values for n in of_k]
    picked = [column[: int(n)] for column, n in zip(columns, of_q, strict=True)]
    gate = torch.rand(tokens_k).masked_fill(torch.rand(tokens_k) < 0.2, 0.0)
    for text in range(len(of_k)):  # [CLS] stays, so that no row is without a key
        if of_k[text]:
            gate[int(of_k[:text].sum())] = 1.0
    if extras.window is not None:  # nor without one in its window
        _open_a_key_for_every_query(gate, columns, of_q, extras.window)
    draws = (torch.randn(n, heads, width) * scale for n in (tokens_q, tokens_k, tokens_k))
    q, k, v = (drawn.to(dtype).requires_grad_() for drawn in draws)
    return AttentionCall(
        q=q,
        k=k,
        v=v,
        cu_q=torch.nn.functional.pad(of_q.cumsum(0), (1, 0)),
        cu_k=torch.nn.functional.pad(of_k.cumsum(0), (1, 0)),
        position_q=torch.cat(picked),
        position_k=torch.cat(columns),
        window=extras.window,
        gate=gate.requires_grad_() if extras.gate else None,
        query_weight=torch.rand(tokens_q).requires_grad_() if extras.query_weight else None,
        relative=draw_relative(heads, width, dtype, scale) if extras.relative else None,
        needs_received=extras.needs_received,
        needs_logsumexp=extras.needs_logsumexp,
    )


def draw_relative(heads, width, dtype=torch.float32, scale=1.0, buckets=11, reach=9):
    """Draw positions of some buckets, the inner ones of one distance each."""
    distance = torch.arange(-reach, reach + 1)
    near = distance.clamp(-3, 3)
    bucket = near + (distance - near).div(3, rounding_mode="trunc") + buckets // 2
    bucket = bucket.clamp(0, buckets - 1).int()
    key, query = torch.randn(2, buckets, heads, width) * scale
    bias = torch.randn(buckets, heads) * scale
    parts = (part.to(dtype).requires_grad_() for part in (key, query, bias))
    return RelativeScores(bucket, *parts)


def _open_a_key_for_every_query(gate, columns, of_q, window):
    start = 0
    for column, queries in zip(columns, of_q.tolist(), strict=True):
        for own in range(queries):
            near = ((column - column[own]).abs() <= window).nonzero().squeeze(1) + start
            if not (gate[near] > 0).any():
                gate[start + own] = 0.5
        start += len(column)


def assert_same_output(one, other, tolerance):
    assert_same(one.context, other.context, tolerance)
    assert (one.received is None) == (other.received is None)
    if one.received is not None:
        assert one.received.dtype == other.received.dtype == torch.float32
        assert_same(one.received, other.received, tolerance)
    assert (one.logsumexp is None) == (other.logsumexp is None)
    if one.logsumexp is not None:
        assert one.logsumexp.dtype == other.logsumexp.dtype == torch.float32
        assert_same(one.logsumexp, other.logsumexp, tolerance)
