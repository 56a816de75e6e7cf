"""The attention of one layer: who asks, who is read, and how many pairs that takes."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fewer.core.apply import Apply
from fewer.core.layer import Layer
from fewer.core.packed import Packed
from fewer.core.policy import Policy
from fewer.core.trace import SparseCounts
from fewer.kernels import AttentionCall, Kernel, Pattern
from fewer.kernels.sparse import SparseLayout

__all__ = ["attention", "gather_rows", "query_rows", "scatter_rows"]

_UNSEEN: dict[str, None] = {"query": None, "key": None, "logsumexp": None, "pairs": None}


def attention(
    layer: Layer, tokens: Packed, apply: Apply, attend: Kernel, policy: Policy, index: int
) -> tuple[Packed, SparseCounts]:
    """Attend; also count what differs from each token of a text attending to each."""
    rows = query_rows(tokens, apply)
    q, k, v = layer.qkv(tokens.hidden, tokens.position, rows)
    heard, needs = apply.heard(tokens), policy.needs(index)
    layout = policy.layout(index)
    apart = layout.split_pairs
    texts = tokens.apart() if apart else tokens
    pattern = layer.pattern or layout.pattern
    sparse = None if pattern is None else _sparse(pattern, texts, rows, q.shape[1])
    q, sparse = _anchored(layer, tokens, rows, q, sparse)
    call = AttentionCall(
        q=q,
        k=k,
        v=v,
        cu_q=texts.cu if rows is None else texts.offsets(rows),
        cu_k=texts.cu,
        gate=heard.gate,
        query_weight=None if rows is not None or heard.presence is None else heard.presence,
        sparse=sparse,
        needs_received=needs.received,
        needs_logsumexp=needs.pairs,
        dropout=layer.dropout,
        training=policy.training,
    )
    attended = attend(call)
    hidden = layer.attended(attended.context, gather_rows(tokens.hidden, rows))
    hidden = scatter_rows(tokens.hidden, hidden, rows)
    if rows is None and tokens.active is not None:  # a policy sees those at rest as they rest
        hidden = torch.where(tokens.active[:, None], hidden, tokens.hidden)
    told = tokens.but(hidden=hidden, received=attended.received, **_UNSEEN)
    if needs.pairs:
        pairs = _pairs(texts, sparse, q.shape[1], apart=apart)
        told = _seen(told, rows, q, k, attended.logsumexp, pairs)
    return told, _extra(tokens, texts, rows, sparse, apart=apart)


def _sparse(pattern: Pattern, texts: Packed, rows: Tensor | None, heads: int) -> SparseLayout:
    whole = texts.read_by(pattern, heads)
    return whole if rows is None else replace(whole, queries=whole.keys.select(rows))


def _anchored(
    layer: Layer, tokens: Packed, rows: Tensor | None, q: Tensor, sparse: SparseLayout | None
) -> tuple[Tensor, SparseLayout | None]:
    """Let anchors ask and read by maps of their own, if there are anchors and the layer has any."""
    if sparse is None:
        return q, None
    asking = sparse.queries.is_global.nonzero().squeeze(1)
    if not len(asking):
        return q, sparse
    far = layer.far(tokens.hidden, asking if rows is None else rows[asking])
    if far is None:
        return q, sparse
    own, k, v = far
    return q.index_copy(0, asking, own), replace(sparse, global_kv=(k, v))


def _extra(
    tokens: Packed, texts: Packed, rows: Tensor | None, sparse: SparseLayout | None, *, apart: bool
) -> SparseCounts:
    """Count pairs and rows as this layer multiplies them."""
    presence, gate = texts.presence, texts.gate
    if sparse is not None:
        asking = None if presence is None else gather_rows(presence, rows)
        pairs = sparse.chunks.count_pairs(asking, gate, texts.grid[0])
    elif apart:
        pairs = texts.count(presence) * texts.count(gate)
    else:
        return SparseCounts()
    pairs = pairs.view(tokens.grid[0], -1).sum(1)
    if sparse is None or sparse.global_kv is None:
        return SparseCounts(pairs)
    asking = sparse.keys.is_global.float()
    asking = asking if tokens.presence is None else asking * tokens.presence
    return SparseCounts(pairs, (tokens.count(asking), tokens.count(gate)))


def _pairs(
    texts: Packed, sparse: SparseLayout | None, heads: int, *, apart: bool
) -> SparseLayout | None:
    """Say which pairs there are if all tokens ask: `None` for all of a text, apart all of each."""
    if sparse is not None:
        return replace(sparse, queries=sparse.keys)
    return texts.read_by(Pattern(texts.grid[1]), heads) if apart else None


def _seen(
    tokens: Packed,
    rows: Tensor | None,
    q: Tensor,
    k: Tensor,
    logsumexp: Tensor | None,
    pairs: SparseLayout | None,
) -> Packed:
    """Give every token its query, for a policy that measures.

    Those that ask nothing have an infinite normaliser: those at rest, and anchors with maps of
    their own, whose attention is not that of these queries and keys.
    """
    assert logsumexp is not None  # the call asked for it
    silent = None if pairs is None or pairs.global_kv is None else pairs.keys.is_global
    if rows is not None:
        q = torch.zeros_like(k).index_copy(0, rows, q)
        nothing = logsumexp.new_full(k.shape[:2], torch.inf)
        logsumexp = nothing.index_copy(0, rows, logsumexp)
    elif tokens.active is not None:
        silent = ~tokens.active if silent is None else silent | ~tokens.active
    if silent is not None:
        logsumexp = logsumexp.masked_fill(silent[:, None], torch.inf)
    return tokens.but(query=q, key=k, logsumexp=logsumexp, pairs=pairs)


def query_rows(tokens: Packed, apply: Apply) -> Tensor | None:
    """Rows that are queries, `None` for all; while freezing is only played, all are computed."""
    if tokens.active is None or not apply.removes:
        return None
    return tokens.active.nonzero().squeeze(1)


def gather_rows(values: Tensor, rows: Tensor | None) -> Tensor:
    """Take these rows; `None` takes all."""
    return values if rows is None else values.index_select(0, rows)


def scatter_rows(base: Tensor, values: Tensor, rows: Tensor | None) -> Tensor:
    """Put values in the place of these rows; `None`: of all."""
    return values if rows is None else base.to(values.dtype).index_copy(0, rows, values)
