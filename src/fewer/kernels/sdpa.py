"""Attention over groups of texts of similar length, in plain PyTorch; runs on every device.

A loop over single texts costs some 30 microseconds per text and layer, which is most of the time
for short texts; one padded batch costs as much as its longest text. So texts are grouped by length
such that at most an eighth of a group is padding. Rows are gathered once for all groups and
scattered once: a gather per group would cost the backward pass a full-size sum per group.

Attention without evidence and dropout goes through `scaled_dot_product_attention`, in fp32 while
training too. Everything else forms the probabilities of one group at a time, never of the batch:
attention received needs them, and on a CPU the backward pass of the fused kernel is slow in bf16.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fewer.kernels.call import AttentionCall, AttentionOutput, log_gate, masked_score
from fewer.kernels.chunked import attend as attend_chunked
from fewer.kernels.dropout import flag_dropped_
from fewer.kernels.groups import GroupedRows, group_rows, split_masked, split_optional

__all__ = ["attend", "query_weights"]


def attend(call: AttentionCall) -> AttentionOutput:
    """Attend group by group; equal to the reference kernel within rounding."""
    if call.sparse is not None:
        return attend_chunked(call, attend)
    if not call.q.shape[0]:
        received = torch.zeros(call.k.shape[0], device=call.k.device)
        logsumexp = torch.zeros(0, call.q.shape[1], device=call.k.device)
        return AttentionOutput(
            call.q.flatten(1),
            received if call.needs_received else None,
            logsumexp if call.needs_logsumexp else None,
        )
    starts_q = tuple(call.cu_q.tolist())
    starts_k = starts_q if call.cu_k is call.cu_q else tuple(call.cu_k.tolist())
    queries, keys = group_rows(starts_q, starts_k, call.q.shape[1], call.q.device)
    if call.relative is not None:
        return _attend_relative(call, queries, keys)
    needs_probabilities = call.needs_received or call.needs_logsumexp or call.dropout
    is_training = torch.is_grad_enabled() or call.training
    if needs_probabilities or (is_training and not _is_fused_training_faster(call)):
        return _attend_explicitly(call, queries, keys)
    groups = zip(
        *(queries.split(call.q), keys.split(call.k), keys.split(call.v)),
        _form_biases(call, queries, keys),
        strict=True,
    )
    return AttentionOutput(queries.join([_attend_fused(q, k, v, bias) for q, k, v, bias in groups]))


def _is_fused_training_faster(call: AttentionCall) -> bool:
    """Return whether the backward pass of the fused kernel is faster: 1.2x in fp32, 0.5x in bf16.

    It would form the gradients of gates in full.
    """
    is_autocast = torch.is_autocast_enabled(call.q.device.type)
    return call.gate is None and call.q.dtype == torch.float32 and not is_autocast


def _attend_fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    # fp16 rounds `masked_score` of fp32 to -inf, and a row of masked pairs would be NaN
    mask = None if bias is None else bias.to(q.dtype).clamp_min(masked_score(q.dtype))
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    context = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return context.transpose(1, 2).flatten(2)


def _attend_explicitly(
    call: AttentionCall, queries: GroupedRows, keys: GroupedRows
) -> AttentionOutput:
    device = call.v.device.type
    is_autocast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if is_autocast else call.v.dtype
    q, k, v = (states.to(dtype) for states in (call.q, call.k, call.v))
    log = None if call.gate is None else log_gate(call.gate)
    weight = query_weights(call) if call.needs_received else None
    biases = _form_biases(replace(call, gate=None), queries, keys)
    groups = _Groups(
        queries, keys, biases, call.dropout, call.needs_logsumexp, torch.is_grad_enabled()
    )
    apply: Any = _Attention.apply
    context, received, logsumexp = apply(q, k, v, log, weight, groups)
    return AttentionOutput(context.flatten(1), received, logsumexp)


def _attend_relative(
    call: AttentionCall, queries: GroupedRows, keys: GroupedRows
) -> AttentionOutput:
    """Attend with scores by distance, whose matrices are formed for one group at a time."""
    assert call.relative is not None
    assert call.position_q is not None
    assert call.position_k is not None
    relative, scale = call.relative, call.q.shape[-1] ** -0.5
    weight = query_weights(call) if call.needs_received else None
    rows = zip(
        *(queries.split(call.q), keys.split(call.k), keys.split(call.v)),
        *(queries.split(call.position_q), keys.split(call.position_k)),
        *(split_masked(queries, weight), _form_biases(call, queries, keys)),
        strict=True,
    )
    contexts, received, logsumexps = [], [], []
    for q, k, v, position_q, position_k, weight_g, bias in rows:
        q_g, k_g = q.transpose(1, 2), k.transpose(1, 2)
        narrow, buckets = relative.narrow(relative.buckets(position_q, position_k))
        # (b, H, nq, nk)
        scores = q_g @ k_g.transpose(2, 3) + narrow.scores(q_g, k_g, buckets)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * scale
        scores = scores if bias is None else scores + bias
        probabilities = scores.softmax(-1)
        if call.needs_logsumexp:
            logsumexps.append(scores.logsumexp(-1).transpose(1, 2))
        if weight_g is not None:
            received.append((weight_g[:, None] @ probabilities.sum(1)).squeeze(1))
        dropped = F.dropout(probabilities, call.dropout).to(v.dtype)
        contexts.append((dropped @ v.transpose(1, 2)).transpose(1, 2))
    return AttentionOutput(
        queries.join(contexts).flatten(1),
        keys.join(received) if call.needs_received else None,
        queries.join(logsumexps) if call.needs_logsumexp else None,
    )


def query_weights(call: AttentionCall) -> Tensor:
    """Return the weight of each query in `received`, over H times the sum of its text, in fp32."""
    rows, heads, _ = call.q.shape
    dtype = torch.promote_types(call.q.dtype, torch.float32)
    weight = (
        call.q.new_ones(rows, dtype=dtype)
        if call.query_weight is None
        else call.query_weight.to(dtype)
    )
    text = torch.repeat_interleave(call.cu_q.diff(), output_size=rows)
    total = weight.new_zeros(len(call.cu_q) - 1).index_add(0, text, weight)
    return weight / (heads * total.clamp_min(torch.finfo(dtype).tiny)).index_select(0, text)


@dataclass(frozen=True)
class _Groups:
    """The inputs of attention in groups that have no gradients."""

    queries: GroupedRows
    keys: GroupedRows
    biases: list[Tensor | None]  # of padding and windows
    dropout: float
    needs_logsumexp: bool
    needs_backward: bool  # whether to keep the probabilities for the backward pass


class _Attention(torch.autograd.Function):
    """Attention with the attention received; keeps only the probabilities of each group.

    They are kept in the dtype of the inputs. Autograd over the single operations keeps them up to
    four times, in fp32, and casts and copies between. Dropped probabilities are flagged by their
    sign. `log` is log g of the keys, `weight` the normalised weight of the queries.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log: Tensor | None,
        weight: Tensor | None,
        groups: _Groups,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        queries, keys, dropout = groups.queries, groups.keys, groups.dropout
        q = q * q.shape[-1] ** -0.5
        contexts, received, logsumexps, saved = [], [], [], []
        rows = zip(
            *(queries.split(q), keys.split(k), keys.split(v)),
            *(split_optional(keys, log), split_masked(queries, weight), groups.biases),
            strict=True,
        )
        with torch.autocast(q.device.type, enabled=False):
            for q_g, k_g, v_g, log_g, weight_g, bias in rows:
                scores = _scores(q_g, k_g, log_g, bias)  # (b, H, nq, nk)
                if groups.needs_logsumexp:
                    dtype = torch.promote_types(scores.dtype, torch.float32)
                    logsumexps.append(scores.to(dtype).logsumexp(-1).transpose(1, 2))
                flagged = scores.softmax(-1)
                if weight_g is not None:  # in fp32, since thresholds compare the result
                    over_heads = flagged.sum(1, dtype=weight_g.dtype)
                    received.append((weight_g[:, None] @ over_heads).squeeze(1))
                if dropout:
                    flag_dropped_(flagged, dropout)
                dropped = flagged.relu() if dropout else flagged
                contexts.append((dropped @ v_g.transpose(1, 2)).transpose(1, 2))
                saved += [flagged] if groups.needs_backward else []
        context = queries.join(contexts)
        context = context / (1 - dropout) if dropout else context
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(q, k, v, weight, context, *saved)
        ctx.groups = groups
        return (
            context,
            None if weight is None else keys.join(received),
            queries.join(logsumexps) if groups.needs_logsumexp else None,
        )

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,
        grad: Tensor | None,
        grad_received: Tensor | None,
        grad_logsumexp: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        q, k, v, weight, context, *probabilities = ctx.saved_tensors
        grad = torch.zeros_like(context) if grad is None else grad
        groups, has_gates = ctx.groups, ctx.needs_input_grad[3]
        queries, keys, dropout = groups.queries, groups.keys, groups.dropout
        delta = (grad * context).sum(-1, keepdim=True)  # of the softmax, (Tq, H, 1)
        if grad_logsumexp is not None:
            delta = delta - grad_logsumexp.unsqueeze(-1).to(delta.dtype)
        grad = grad / (1 - dropout) if dropout else grad
        rows = zip(
            *(queries.split(q), keys.split(k), keys.split(v)),
            *(split_masked(queries, values) for values in (grad, delta, weight)),
            *(split_optional(keys, None if weight is None else grad_received), probabilities),
            strict=True,
        )
        with torch.autocast(q.device.type, enabled=False):
            gradients = [
                _compute_gradients(*row, has_dropout=dropout > 0, has_gates=has_gates)
                for row in rows
            ]
        grad_q, grad_k, grad_v, grad_log, grad_weight = zip(*gradients, strict=True)
        return (
            queries.join(grad_q) * q.shape[-1] ** -0.5,
            keys.join(grad_k),
            keys.join(grad_v),
            keys.join(grad_log) if has_gates else None,
            queries.join(grad_weight)
            if ctx.needs_input_grad[4] and grad_received is not None
            else None,
            None,
        )


def _scores(q: Tensor, k: Tensor, log: Tensor | None, bias: Tensor | None) -> Tensor:
    scores = q.transpose(1, 2) @ k.permute(0, 2, 3, 1)  # (b, H, nq, nk)
    if bias is not None:
        scores += bias.to(q.dtype).clamp_min(masked_score(q.dtype))  # -inf in fp16 otherwise
    if log is not None:
        scores += log[:, None, None].to(q.dtype).clamp_min(masked_score(q.dtype))
    return scores


def _compute_gradients(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grad: Tensor,
    delta: Tensor,
    weight: Tensor | None,
    grad_received: Tensor | None,
    flagged: Tensor,
    *,
    has_dropout: bool,
    has_gates: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return the gradients of one group: q, k, v `(b, n, H, d)`, `log` and `weight` `(b, n)`."""
    q, k, v, grad, shift = (states.transpose(1, 2) for states in (q, k, v, grad, -delta))
    # the probabilities without and with dropout
    p, dropped = (flagged.abs(), flagged.relu()) if has_dropout else (flagged, flagged)
    grad_weight = None
    if weight is not None and grad_received is not None:
        weight_q = weight[:, None, :, None].to(q.dtype)
        grad_score = grad_received[:, None, None].to(q.dtype)  # (b, 1, 1, nk)
        mean = p @ grad_score.transpose(2, 3)  # (b, H, nq, 1)
        grad_weight = mean.sum(1, dtype=weight.dtype).squeeze(-1)
        shift = (weight_q * grad_score) + (shift - weight_q * mean)
    scores = grad @ v.transpose(2, 3)
    if has_dropout:
        scores = scores.mul_(dropped).addcmul_(p, shift)
    else:
        scores = scores.add_(shift).mul_(dropped)
    # a product: `sum` would first copy the matrix to fp32
    grad_log = scores.new_ones(scores.shape[2]) @ scores if has_gates else None  # (b, H, nk)
    grad_q = (scores @ k).transpose(1, 2)
    grad_k = (scores.transpose(2, 3) @ q).transpose(1, 2)
    grad_v = (dropped.transpose(2, 3) @ grad).transpose(1, 2)
    dtype = torch.promote_types(scores.dtype, torch.float32)
    grad_log = None if grad_log is None else grad_log.sum(1, dtype=dtype)
    return grad_q, grad_k, grad_v, grad_log, grad_weight


def _form_biases(
    call: AttentionCall, queries: GroupedRows, keys: GroupedRows
) -> list[Tensor | None]:
    """Form the bias of the scores of each group: `(b, 1, 1 or nq, nk)` in fp32, or `None`."""
    biases: list[Tensor | None] = [
        None if mask is None else _mask_scores(~mask)[:, None, None] for mask in keys.masks
    ]
    if call.gate is not None:
        gates = [log_gate(gate)[:, None, None] for gate in keys.split(call.gate)]
        biases = [
            gate if bias is None else bias + gate for bias, gate in zip(biases, gates, strict=True)
        ]
    if call.window is not None:
        assert call.position_q is not None
        assert call.position_k is not None
        groups = zip(
            *(queries.split(call.position_q), keys.split(call.position_k)),
            *(split_optional(keys, call.window_exempt), biases),
            strict=True,
        )
        biases = []
        for positions_q, positions_k, exempt, bias in groups:
            outside = _is_outside(positions_q, positions_k, call.window, exempt)
            window = _mask_scores(outside)[:, None]
            biases.append(window if bias is None else bias + window)
    return biases


def _is_outside(q: Tensor, k: Tensor, window: int, exempt: Tensor | None) -> Tensor:
    outside = (q[:, :, None] - k[:, None]).abs() > window
    return outside if exempt is None else outside & ~exempt[:, None]


def _mask_scores(mask: Tensor) -> Tensor:
    return torch.zeros(mask.shape, device=mask.device).masked_fill_(
        mask, masked_score(torch.float32)
    )
