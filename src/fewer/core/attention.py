"""Attention of one layer: query rows, key rows and the number of query-key pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from fewer.core.apply import Apply
from fewer.core.evidence import NO_EVIDENCE, Evidence
from fewer.core.heads import attend_some_heads, remaining_heads
from fewer.core.layer import Layer
from fewer.core.needs import FULL_LAYOUT, Layout, Needs
from fewer.core.packed import Packed
from fewer.core.removed import gather_rows, scatter_rows
from fewer.core.trace import SparseCounts
from fewer.kernels import AttentionCall, AttentionOutput, Kernel, Pattern
from fewer.kernels.sparse import SparseLayout

__all__ = ["attention", "query_rows"]


def attention(
    layer: Layer,
    tokens: Packed,
    apply: Apply,
    attend: Kernel,
    needs: Needs,
    layout: Layout,
    *,
    chain: Callable[..., tuple[Tensor, Tensor | None]] | None = None,
    training: bool,
) -> tuple[Packed, Evidence, Callable[[], SparseCounts]]:
    """Attend; also return evidence for the policy, and a count of what is not full attention.

    `chain` is `LayerChain.attend` of this layer, where there is one.
    """
    is_simple = tokens.take_part_in_full and layout == FULL_LAYOUT and not training
    if chain is not None and is_simple and not needs.looks_at_parts:
        hidden, received = chain(tokens, needs_received=needs.sums_received)
        count = count_window(layer.pattern, tokens)
        return tokens.replace(hidden=hidden), Evidence(received=received), count
    rows = query_rows(tokens, apply)
    q, k, v = layer.qkv(tokens.hidden, tokens.placement.position, rows)
    texts = tokens.split_pairs() if layout.split_pairs else tokens
    pattern = layer.pattern or layout.pattern
    sparse = None if pattern is None else _sparse_layout(pattern, texts, rows, q.shape[1])
    pair_layout = sparse
    q, sparse = _project_global(layer, tokens, rows, q, sparse)
    gate, weight = (
        (texts.gate, texts.participation) if apply.attends_by_gate else (None, _active(texts))
    )
    relative, column = layer.relative_scores(), None
    if relative is not None:
        relative, column = relative.to(q.dtype), tokens.placement.column
    call = AttentionCall(
        q=q,
        k=k,
        v=v,
        cu_q=texts.cu if rows is None else texts.offsets(rows),
        cu_k=texts.cu,
        position_q=None if column is None else gather_rows(column, rows),
        position_k=column,
        gate=gate,
        query_weight=weight if rows is None else None,
        sparse=sparse,
        relative=relative,
        needs_received=needs.sums_received,
        needs_logsumexp=needs.pairs or needs.from_others,
        dropout=layer.dropout,
        training=training,
        is_consecutive=rows is None and texts.placement.is_consecutive,
        max_length=tokens.grid[1],
    )
    heads = remaining_heads(texts, layout.heads, q.shape[1])
    if heads is None:
        attended = attend(call)
    else:
        sequences = gather_rows(texts.sequence, rows), texts.sequence
        attended = attend_some_heads(call, attend, heads, sequences)
    hidden = layer.attended(attended.context, gather_rows(tokens.hidden, rows))
    hidden = scatter_rows(tokens.hidden, hidden, rows)
    if rows is None and tokens.active is not None:  # a policy sees the frozen as they stay
        hidden = torch.where(tokens.active[:, None], hidden, tokens.hidden)
    evidence = NO_EVIDENCE
    if needs.sums_received or needs.pairs or needs.values or needs.head_context:
        evidence = _measure(texts, needs, layout, rows, call, attended)
    if texts is tokens and sparse is None and heads is None:
        return tokens.replace(hidden=hidden), evidence, SparseCounts
    count = partial(
        _count,
        _without_states(tokens),
        _without_states(texts),
        rows,
        pair_layout,
        heads,
        has_separate=sparse is not None and sparse.global_kv is not None,
    )
    return tokens.replace(hidden=hidden), evidence, count


def count_window(pattern: Pattern | None, tokens: Packed) -> Callable[[], SparseCounts]:
    """Return a count of the pairs of a sliding window, if there is one, over all tokens."""
    if pattern is None:
        return SparseCounts
    tokens = _without_states(tokens)
    return lambda: _count(tokens, tokens, None, _sparse_layout(pattern, tokens, None, 1), None)


def _without_states(tokens: Packed) -> Packed:
    """Let go of the memory of the states, for a count that may come later."""
    return tokens.replace(hidden=tokens.hidden.new_empty(0))


def _active(tokens: Packed) -> Tensor | None:
    return None if tokens.active is None else tokens.active.float()


def _sparse_layout(
    pattern: Pattern, texts: Packed, rows: Tensor | None, heads: int
) -> SparseLayout:
    full = texts.placement.attention_layout(pattern, texts.roles, heads)
    return full if rows is None else replace(full, queries=full.keys.select(rows))


def _project_global(
    layer: Layer, tokens: Packed, rows: Tensor | None, q: Tensor, sparse: SparseLayout | None
) -> tuple[Tensor, SparseLayout | None]:
    """Project global tokens by maps of their own, if there are any and the layer has such maps."""
    if sparse is None or not layer.has_global_projections:
        return q, sparse
    queries = sparse.queries.is_global.nonzero().squeeze(1)
    if not len(queries):
        return q, sparse
    projected = layer.project_global(tokens.hidden, queries if rows is None else rows[queries])
    global_q, k, v = projected
    return q.index_copy(0, queries, global_q), replace(sparse, global_kv=(k, v))


def _count(
    tokens: Packed,
    texts: Packed,
    rows: Tensor | None,
    sparse: SparseLayout | None,
    heads: Tensor | None,
    *,
    has_separate: bool = False,  # whether global tokens have projections of their own
) -> SparseCounts:
    """Count pairs and rows as this layer multiplies them, where they are not all with all."""
    participation, gate = texts.participation, texts.gate
    if sparse is not None:
        weight = None if participation is None else gather_rows(participation, rows)
        pairs = sparse.chunks.count_pairs(weight, gate, texts.grid[0])
    else:
        pairs = texts.count(participation) * texts.count(gate)
    pairs = pairs if heads is None else pairs * heads.float().mean(1)
    pairs = pairs.view(tokens.grid[0], -1).sum(1)
    if sparse is None or not has_separate:
        return SparseCounts(pairs)
    is_global = sparse.keys.is_global.float()
    if tokens.participation is not None:
        is_global = is_global * tokens.participation
    return SparseCounts(pairs, (tokens.count(is_global), tokens.count(gate)))


def _measure(
    texts: Packed,
    needs: Needs,
    layout: Layout,
    rows: Tensor | None,
    call: AttentionCall,
    attended: AttentionOutput,
) -> Evidence:
    """Give every token the evidence that the policy needs.

    Tokens without a query have an infinite logsumexp: frozen ones, and global ones with maps of
    their own, whose attention is not that of these queries and keys.
    """
    evidence = Evidence(
        received=attended.received if needs.received or needs.received_in_trace else None,
        value=call.v if needs.values else None,
    )
    if needs.head_context:
        context = attended.context.unflatten(1, call.q.shape[1:])
        empty = torch.zeros_like(call.k, dtype=context.dtype)
        evidence = replace(evidence, head_context=scatter_rows(empty, context, rows))
    if not (needs.pairs or needs.from_others):
        return evidence
    sparse, logsumexp, q = call.sparse, attended.logsumexp, call.q
    assert logsumexp is not None  # the call asked for it
    pairs = None if sparse is None else replace(sparse, queries=sparse.keys)
    if pairs is None and layout.split_pairs:
        pattern = Pattern(texts.grid[1])
        pairs = texts.placement.attention_layout(pattern, texts.roles, q.shape[1])
    silent = None if pairs is None or pairs.global_kv is None else pairs.keys.is_global
    if rows is not None:
        q = torch.zeros_like(call.k).index_copy(0, rows, q)
        nothing = logsumexp.new_full(call.k.shape[:2], torch.inf)
        logsumexp = nothing.index_copy(0, rows, logsumexp)
    elif texts.active is not None:
        silent = ~texts.active if silent is None else silent | ~texts.active
    if silent is not None:
        logsumexp = logsumexp.masked_fill(silent[:, None], torch.inf)
    if needs.from_others:
        evidence = replace(evidence, from_others=_from_others(texts, call, attended, q, logsumexp))
    if needs.pairs:
        evidence = replace(
            evidence,
            query=q,
            key=call.k,
            logsumexp=logsumexp,
            pairs=pairs,
            relative=call.relative,
        )
    return evidence


def _from_others(
    texts: Packed, call: AttentionCall, attended: AttentionOutput, q: Tensor, logsumexp: Tensor
) -> Tensor:
    """Take what each token gives itself from the attention received."""
    assert attended.received is not None  # the call asked for it
    scores = (q.float() * call.k.float()).sum(-1)
    if call.relative is not None:
        distance = torch.zeros_like(texts.sequence)
        scores = scores + call.relative.scores_of_pairs(q, call.k, distance)
    scores = scores * q.shape[-1] ** -0.5
    to_itself = (scores - logsumexp).exp().mean(1)
    if call.gate is not None:
        to_itself = to_itself * call.gate
    weight = call.query_weight if call.query_weight is not None else _active(texts)
    total = texts.count(weight)[texts.sequence]
    to_itself = to_itself if call.query_weight is None else to_itself * call.query_weight
    share: Tensor = to_itself / total.clamp_min(torch.finfo(torch.float32).tiny)
    return attended.received - share


def query_rows(tokens: Packed, apply: Apply) -> Tensor | None:
    """Rows that are queries, `None` for all; unless tokens are removed, all are computed."""
    if tokens.active is None or not apply.removes:
        return None
    return tokens.reader_rows  # all tokens are alive where they are removed
