"""A call by a pattern, carried out as a call of short texts, by any kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from fewer.kernels.call import Attended, AttentionCall, Kernel
from fewer.kernels.sparse import Chunks, SparseLayout, chunk_of, sums

__all__ = ["attend"]


def attend(call: AttentionCall, kernel: Kernel) -> Attended:
    """Attend chunk by chunk, each a text with keys of its own; put the results in their places."""
    sparse = call.sparse
    assert sparse is not None  # the kernel asked
    chunks = sparse.chunks
    own_q, own_k = chunks.queries // chunks.split, chunks.keys // chunks.split % len(call.k)
    k, v = call.k, call.v
    if sparse.far is not None:
        k, v = (torch.cat(both) for both in zip((k, v), sparse.far, strict=True))
    attended = kernel(
        AttentionCall(
            q=_rows(call.q, chunks.queries, chunks),
            k=_rows(k, chunks.keys, chunks),
            v=_rows(v, chunks.keys, chunks),
            cu_q=chunks.cu_q,
            cu_k=chunks.cu_k,
            position_q=sparse.asking.column[own_q],
            position_k=sparse.asked.column[own_k],
            window=sparse.pattern.window if sparse.pattern.slides else None,
            free=chunks.free,
            gate=None if call.gate is None else call.gate[own_k],
            vote=None if call.vote is None else call.vote[own_q],
            scored=call.scored,
            measured=call.measured,
            dropout=call.dropout,
            training=call.training,
        )
    )
    rows, heads, _ = call.q.shape
    back = torch.empty_like(chunks.queries)
    back[chunks.queries] = torch.arange(len(back), device=back.device)
    context, logsumexp = attended.context.index_select(0, back), attended.logsumexp
    return Attended(
        context.view(rows, -1),
        None if attended.received is None else _received(call, sparse, own_k, attended.received),
        None if logsumexp is None else logsumexp.index_select(0, back).view(rows, heads),
    )


def _rows(states: Tensor, rows: Tensor, chunks: Chunks) -> Tensor:
    """Pick rows of `(T, H, d)`; of single heads where chunks are."""
    if chunks.split > 1:
        states = states.flatten(0, 1)[:, None]
    return states.index_select(0, rows)


def _received(call: AttentionCall, sparse: SparseLayout, own_k: Tensor, received: Tensor) -> Tensor:
    """Join what keys got in each chunk, a mean over its queries, to a mean over their text's."""
    chunks, heads = sparse.chunks, call.q.shape[1]
    vote = received.new_ones(len(call.q)) if call.vote is None else call.vote.to(received.dtype)
    votes = sums(vote, chunks.queries // chunks.split, chunks.cu_q)
    of_chunk = votes * (heads // chunks.split)
    summed = received * of_chunk[chunk_of(chunks.cu_k, len(received))]
    total = vote.new_zeros(len(sparse.extent)).index_add(0, sparse.asking.sequence, vote)
    whole = received.new_zeros(len(call.k)).index_add(0, own_k, summed)
    return whole / (heads * total.clamp_min(torch.finfo(total.dtype).tiny))[sparse.asked.sequence]
