"""Sparse attention as dense attention over many short texts, with any kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from fewer.kernels.call import AttentionCall, AttentionOutput, Kernel
from fewer.kernels.sparse import Chunks, SparseLayout, chunk_index, sum_per_chunk

__all__ = ["attend"]


def attend(call: AttentionCall, kernel: Kernel) -> AttentionOutput:
    """Attend chunk by chunk, each a short text with its own keys; scatter the results back.

    Raises `ValueError` for relative scores in a pattern that differs from head to head.
    """
    sparse = call.sparse
    assert sparse is not None  # kernels check it
    chunks = sparse.chunks
    if call.relative is not None and chunks.rows_per_token > 1:
        raise ValueError(
            "pattern must be the same for all heads of a layer with relative scores; got "
            f"{sparse.pattern}. Take a pattern without random blocks."
        )
    rows_q, rows_k = (
        chunks.queries // chunks.rows_per_token,
        chunks.keys // chunks.rows_per_token % len(call.k),
    )
    k, v = call.k, call.v
    if sparse.global_kv is not None:
        k, v = (torch.cat(states) for states in zip((k, v), sparse.global_kv, strict=True))
    attended = kernel(
        AttentionCall(
            q=_gather(call.q, chunks.queries, chunks),
            k=_gather(k, chunks.keys, chunks),
            v=_gather(v, chunks.keys, chunks),
            cu_q=chunks.cu_q,
            cu_k=chunks.cu_k,
            position_q=sparse.queries.column[rows_q],
            position_k=sparse.keys.column[rows_k],
            window=sparse.pattern.window if sparse.pattern.has_sliding_window else None,
            window_exempt=chunks.window_exempt,
            gate=None if call.gate is None else call.gate[rows_k],
            query_weight=None if call.query_weight is None else call.query_weight[rows_q],
            relative=call.relative,
            needs_received=call.needs_received,
            needs_logsumexp=call.needs_logsumexp,
            dropout=call.dropout,
            training=call.training,
        )
    )
    tokens, heads, _ = call.q.shape
    inverse = torch.empty_like(chunks.queries)
    inverse[chunks.queries] = torch.arange(len(inverse), device=inverse.device)
    context, logsumexp = attended.context.index_select(0, inverse), attended.logsumexp
    return AttentionOutput(
        context.view(tokens, -1),
        None
        if attended.received is None
        else _merge_received(call, sparse, rows_k, attended.received),
        None if logsumexp is None else logsumexp.index_select(0, inverse).view(tokens, heads),
    )


def _gather(states: Tensor, rows: Tensor, chunks: Chunks) -> Tensor:
    """Select rows of `(T, H, d)`, or of `(T * H, 1, d)` where each head has its own chunks."""
    if chunks.rows_per_token > 1:
        states = states.flatten(0, 1)[:, None]
    return states.index_select(0, rows)


def _merge_received(
    call: AttentionCall, sparse: SparseLayout, rows_k: Tensor, received: Tensor
) -> Tensor:
    """Merge the means over the queries of each chunk into means over the queries of each text."""
    chunks, heads = sparse.chunks, call.q.shape[1]
    weight = (
        received.new_ones(len(call.q))
        if call.query_weight is None
        else call.query_weight.to(received.dtype)
    )
    chunk_weight = sum_per_chunk(weight, chunks.queries // chunks.rows_per_token, chunks.cu_q)
    chunk_weight = chunk_weight * (heads // chunks.rows_per_token)
    summed = received * chunk_weight[chunk_index(chunks.cu_k, len(received))]
    total = weight.new_zeros(len(sparse.lengths)).index_add(0, sparse.queries.sequence, weight)
    received = received.new_zeros(len(call.k)).index_add(0, rows_k, summed)
    tiny = torch.finfo(total.dtype).tiny
    return received / (heads * total.clamp_min(tiny))[sparse.keys.sequence]
