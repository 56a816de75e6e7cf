"""The reference kernel: one text at a time, every matrix in full, slow and plain.

The other kernels are tested against it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fewer.kernels.call import AttentionCall, AttentionOutput, log_gate, masked_score

__all__ = ["attend"]


def attend(call: AttentionCall) -> AttentionOutput:
    """Attend text by text with explicit probabilities.

    Attention received is LTP eq. 4: the mean over heads and queries of the probability of a key,
    with a weight per query: `s_j = sum_h sum_i weight_i A[h, i, j] / (H * sum_i weight_i)`; fp32,
    sums to 1 over a text.
    """
    contexts, received, logsumexps = [], [], []
    cu_q, cu_k = call.cu_q.tolist(), call.cu_k.tolist()
    for text in range(len(cu_q) - 1):
        rows, keys = slice(cu_q[text], cu_q[text + 1]), slice(cu_k[text], cu_k[text + 1])
        scores = _scores(call, rows, keys)  # (H, nq, nk)
        probabilities = scores.softmax(-1)
        logsumexps.append(scores.logsumexp(-1).T)
        dropped = F.dropout(probabilities, call.dropout).to(call.v.dtype)
        context = (dropped @ call.v[keys].transpose(0, 1)).transpose(0, 1)  # (nq, H, d)
        if call.sparse is not None and call.sparse.global_kv is not None:
            values = call.sparse.global_kv[1][keys].transpose(0, 1)
            global_context = (dropped @ values).transpose(0, 1)
            is_global = call.sparse.queries.is_global[rows, None, None]
            context = torch.where(is_global, global_context, context)
        contexts.append(context.flatten(1))
        weight = (
            torch.ones(rows.stop - rows.start, device=call.q.device)
            if call.query_weight is None
            else call.query_weight[rows]
        )
        weight = weight.to(probabilities)
        heads = probabilities.shape[0]
        total = weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)
        received.append((probabilities * weight[:, None]).sum((0, 1)) / (heads * total))
    return AttentionOutput(
        torch.cat(contexts),
        torch.cat(received) if call.needs_received else None,
        torch.cat(logsumexps) if call.needs_logsumexp else None,
    )


def _scores(call: AttentionCall, rows: slice, keys: slice) -> Tensor:
    q, k = call.q[rows].transpose(0, 1), call.k[keys].transpose(0, 1)  # (H, n, d)
    scores: Tensor = (q @ k.transpose(1, 2)).float() * q.shape[-1] ** -0.5
    if call.relative is not None:
        assert call.position_q is not None
        assert call.position_k is not None
        buckets = call.relative.buckets(call.position_q[rows], call.position_k[keys])
        scores = scores + call.relative.scores(q, k, buckets).float() * q.shape[-1] ** -0.5
    if call.sparse is not None and call.sparse.global_kv is not None:
        global_keys = call.sparse.global_kv[0][keys].permute(1, 2, 0)
        global_scores = (q @ global_keys).float() * q.shape[-1] ** -0.5
        scores = torch.where(call.sparse.queries.is_global[rows, None], global_scores, scores)
    if call.gate is not None:
        scores = scores + log_gate(call.gate[keys])
    if call.window is not None:
        assert call.position_q is not None
        assert call.position_k is not None
        distance = (call.position_q[rows, None] - call.position_k[None, keys]).abs()
        visible = distance <= call.window
        if call.window_exempt is not None:
            visible = visible | call.window_exempt[keys]
        scores = scores.masked_fill(~visible, masked_score(scores.dtype))
    if call.sparse is not None:
        query_rows, key_rows = (
            torch.arange(part.start, part.stop, device=call.q.device) for part in (rows, keys)
        )
        pairs = call.sparse.create_mask(query_rows, key_rows)
        scores = scores.masked_fill(~pairs, masked_score(scores.dtype))
    return scores
