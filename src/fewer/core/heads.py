"""Attention of some heads only: each text computes the heads that it has left.

A head of a text is a short text of its own with one head, so every kernel computes the pairs of the
heads that are left and of no other.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from fewer.core.packed import Packed
from fewer.kernels import AttentionCall, AttentionOutput, Kernel

__all__ = ["attend_some_heads", "remaining_heads"]


def remaining_heads(
    tokens: Packed, layout: frozenset[int] | None, heads: int
) -> Bool[Tensor, "B H"] | None:
    """Return which heads each text computes; `None`: all.

    Raises `ValueError` for a number that is none of a head.
    """
    if layout is None:
        return tokens.heads
    if layout and not 0 <= min(layout) <= max(layout) < heads:
        raise ValueError(
            f"heads of a layout must be numbers from 0 to {heads - 1}; got {sorted(layout)}."
        )
    mask = torch.zeros(heads, dtype=torch.bool, device=tokens.slot.device)
    mask[sorted(layout)] = True
    return mask.expand(tokens.grid[0], heads) if tokens.heads is None else tokens.heads & mask


def attend_some_heads(
    call: AttentionCall,
    attend: Kernel,
    mask: Bool[Tensor, "B H"],
    texts: tuple[Int[Tensor, "Tq"], Int[Tensor, "Tk"]],
) -> AttentionOutput:
    """Attend by the heads of `mask`; `texts` are those of the queries and of the keys.

    Pruned heads return zeros, and receive nothing: `received` is the mean over the heads left.
    Raises `ValueError` for a sparse pattern that does not slide.
    """
    if call.sparse is not None and call.sparse.is_band:
        call = call.with_window()
    if call.sparse is not None:
        raise ValueError(
            "heads can be pruned in layers of full or sliding attention; got the pattern "
            f"{call.sparse.pattern}. Leave one of the two methods out."
        )
    if call.relative is not None and call.q.shape[1] > 1:
        return _attend_head_by_head(call, attend, mask, texts)
    row_k, head_k, cu_k = _rows_of_heads(mask, texts[1])
    row_q, head_q, cu_q = row_k, head_k, cu_k
    if texts[0] is not texts[1]:
        row_q, head_q, cu_q = _rows_of_heads(mask, texts[0])

    def pick(values: Tensor | None, row: Tensor) -> Tensor | None:
        return None if values is None else values[row]

    attended = attend(
        replace(
            call,
            q=call.q[row_q, head_q].unsqueeze(1),
            k=call.k[row_k, head_k].unsqueeze(1),
            v=call.v[row_k, head_k].unsqueeze(1),
            cu_q=cu_q,
            cu_k=cu_k,
            position_q=pick(call.position_q, row_q),
            position_k=pick(call.position_k, row_k),
            window_exempt=pick(call.window_exempt, row_k),
            gate=pick(call.gate, row_k),
            query_weight=pick(call.query_weight, row_q),
        )
    )
    context = torch.zeros_like(call.q, dtype=attended.context.dtype)
    context = context.index_put((row_q, head_q), attended.context)
    received = logsumexp = None
    if attended.received is not None:
        count = mask.sum(1).clamp_min(1)[texts[1]]
        received = attended.received.new_zeros(len(call.k))
        received = received.index_add(0, row_k, attended.received) / count
    if attended.logsumexp is not None:
        logsumexp = attended.logsumexp.new_full(call.q.shape[:2], torch.inf)
        logsumexp = logsumexp.index_put((row_q, head_q), attended.logsumexp.squeeze(1))
    return AttentionOutput(context.flatten(1), received, logsumexp)


def _attend_head_by_head(
    call: AttentionCall,
    attend: Kernel,
    mask: Bool[Tensor, "B H"],
    texts: tuple[Int[Tensor, "Tq"], Int[Tensor, "Tk"]],
) -> AttentionOutput:
    """Attend by each head in turn: relative scores have positions of their own for each head."""
    assert call.relative is not None
    outputs = [
        attend_some_heads(
            replace(
                call,
                q=call.q[:, head : head + 1],
                k=call.k[:, head : head + 1],
                v=call.v[:, head : head + 1],
                relative=call.relative.select_head(head),
            ),
            attend,
            mask[:, head : head + 1],
            texts,
        )
        for head in range(call.q.shape[1])
    ]
    received = [each.received for each in outputs if each.received is not None]
    logsumexp = [each.logsumexp for each in outputs if each.logsumexp is not None]
    count = mask.sum(1).clamp_min(1)[texts[1]]  # a pruned head receives nothing
    return AttentionOutput(
        torch.cat([each.context for each in outputs], 1),
        torch.stack(received).sum(0) / count if received else None,
        torch.cat(logsumexp, 1) if logsumexp else None,
    )


def _rows_of_heads(
    mask: Bool[Tensor, "B H"], text: Int[Tensor, "T"]
) -> tuple[Int[Tensor, "P"], Int[Tensor, "P"], Int[Tensor, "B*H+1"]]:
    """List the rows of each text once per head left, head after head, and where each begins."""
    row, head = mask[text].nonzero().unbind(1)
    index = text[row] * mask.shape[1] + head
    order = index.argsort(stable=True)
    numbers = torch.arange(mask.numel() + 1, device=index.device)
    return row[order], head[order], torch.searchsorted(index[order], numbers)
