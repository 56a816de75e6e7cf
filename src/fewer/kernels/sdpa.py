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

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fewer.kernels.call import AttentionCall, AttentionOutput, log_gate, masked_score
from fewer.kernels.chunked import attend as attend_chunked
from fewer.kernels.dropout import flag_dropped_

__all__ = ["attend", "query_weights"]

# Elements in the probabilities of one group: 4 MB in fp32, which fits the L2 cache of a core.
# 256 tokens x 12 heads are 0.8 M.
GROUP_ELEMENTS = 1 << 20
MAX_PADDING = 0.125


@dataclass(frozen=True)
class _GroupedRows:
    """The rows of queries or keys in groups.

    `gather` lists the rows group after group, `inverse` undoes it; `None`: rows are in that order.
    """

    gather: Tensor | None
    inverse: Tensor | None
    sizes: tuple[tuple[int, int], ...]  # (texts, longest length) of each group
    masks: tuple[Tensor | None, ...]  # (texts, longest length): False for padding; None: all True

    def split(self, values: Tensor) -> list[Tensor]:
        """Cut `(T, ...)` into groups `(b, n, ...)`."""
        rows = values if self.gather is None else values.index_select(0, self.gather)
        pieces = rows.split([texts * longest for texts, longest in self.sizes])
        return [piece.unflatten(0, size) for piece, size in zip(pieces, self.sizes, strict=True)]

    def join(self, groups: Sequence[Tensor]) -> Tensor:
        """Undo `split`, without the padding."""
        rows = (
            groups[0].flatten(0, 1)
            if len(groups) == 1
            else torch.cat([group.flatten(0, 1) for group in groups])
        )
        return rows if self.inverse is None else rows.index_select(0, self.inverse)


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
    queries, keys = _group_rows(starts_q, starts_k, call.q.shape[1], call.q.device)
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
    call: AttentionCall, queries: _GroupedRows, keys: _GroupedRows
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

    queries: _GroupedRows
    keys: _GroupedRows
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
            *(_split(keys, log), _split_masked(queries, weight), groups.biases),
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
            *(_split_masked(queries, values) for values in (grad, delta, weight)),
            *(_split(keys, None if weight is None else grad_received), probabilities),
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


def _split(rows: _GroupedRows, values: Tensor | None) -> list[Tensor] | list[None]:
    return [None] * len(rows.sizes) if values is None else rows.split(values)


def _split_masked(rows: _GroupedRows, values: Tensor | None) -> list[Tensor] | list[None]:
    """Cut into groups, with zeros in place of padding."""
    if values is None:
        return [None] * len(rows.sizes)
    return [
        group if mask is None else group * mask.view(*mask.shape, *[1] * (group.ndim - 2))
        for group, mask in zip(rows.split(values), rows.masks, strict=True)
    ]


def _form_biases(
    call: AttentionCall, queries: _GroupedRows, keys: _GroupedRows
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
            *(_split(keys, call.window_exempt), biases),
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


@lru_cache(maxsize=32)  # the layers of a pass without pruning share their groups
@torch.inference_mode(False)  # a later training step may read the cached tensors
def _group_rows(
    starts_q: tuple[int, ...], starts_k: tuple[int, ...], heads: int, device: torch.device
) -> tuple[_GroupedRows, _GroupedRows]:
    groups = _group_texts(starts_q, starts_k, heads)
    queries = _list_rows(groups, starts_q, device)
    return queries, queries if starts_k is starts_q else _list_rows(groups, starts_k, device)


def _group_texts(
    starts_q: tuple[int, ...], starts_k: tuple[int, ...], heads: int
) -> list[list[int]]:
    """Group texts of similar length, within the bounds on size and padding."""
    queries = [end - start for start, end in pairwise(starts_q)]
    keys = [end - start for start, end in pairwise(starts_k)]
    groups: list[list[int]] = []
    pairs = 0
    for text in sorted(range(len(keys)), key=lambda t: (keys[t], queries[t]), reverse=True):
        area = queries[text] * keys[text]
        if groups:
            padded = (
                (len(groups[-1]) + 1)
                * max(queries[t] for t in (*groups[-1], text))
                * keys[groups[-1][0]]
            )
            if heads * padded <= GROUP_ELEMENTS and pairs + area >= (1 - MAX_PADDING) * padded:
                groups[-1].append(text)
                pairs += area
                continue
        groups.append([text])
        pairs = area
    return groups


def _list_rows(
    groups: list[list[int]], starts: tuple[int, ...], device: torch.device
) -> _GroupedRows:
    """List the rows of each group, padded to its longest text."""
    rows: list[Tensor] = []
    masks: list[Tensor | None] = []
    sizes: list[tuple[int, int]] = []
    for texts in groups:
        lengths = torch.tensor([starts[t + 1] - starts[t] for t in texts])
        longest = int(lengths.max())
        column = torch.arange(longest)
        # padding repeats the last row of its text (or any row, in a text without rows): finite,
        # and masked
        last = (lengths - 1).clamp_min(0)[:, None]
        first = torch.tensor([min(starts[t], starts[-1] - 1) for t in texts])[:, None]
        rows.append((first + torch.minimum(column, last)).flatten())
        mask = column < lengths[:, None]
        masks.append(None if bool(mask.all()) else mask.to(device))
        sizes.append((len(texts), longest))
    gather = torch.cat(rows)
    if gather.numel() == starts[-1] and bool((gather.diff() == 1).all()):
        return _GroupedRows(None, None, tuple(sizes), tuple(masks))
    is_token = torch.cat(
        [
            torch.ones(b * n, dtype=torch.bool) if mask is None else mask.flatten().cpu()
            for (b, n), mask in zip(sizes, masks, strict=True)
        ]
    )
    inverse = torch.empty(starts[-1], dtype=torch.long)
    inverse[gather[is_token]] = is_token.nonzero().squeeze(1)
    return _GroupedRows(gather.to(device), inverse.to(device), tuple(sizes), tuple(masks))
