"""Texts of like length side by side, in plain PyTorch; runs on every device.

A loop over single texts pays some 30 microseconds a text and layer, which is most of the time for
short texts; one padded batch pays for its longest text. So texts are grouped by length such that at
most an eighth of a group is padding. Rows are gathered once for all groups, and given back once: a
gather a group would cost the backward pass a full-size sum a group.

Attention without scores and dropout goes through `scaled_dot_product_attention`, in fp32 while
training too. Everything else forms the probabilities of one group at a time, never of the batch:
attention received needs them, and on a CPU the fused kernel's backward pass is slow in bf16.
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

from fewer.kernels.call import Attended, AttentionCall, log_gate, never
from fewer.kernels.chunked import attend as spread
from fewer.kernels.dropout import flag_dropped_

__all__ = ["attend"]

# Elements of one group's probabilities: 4 MB in fp32, the share of a core's L2. 256 tokens x 12
# heads make 0.8 M.
GROUP_ELEMENTS = 1 << 20
MAX_PADDING = 0.125


@dataclass(frozen=True)
class _Side:
    """Rows of all groups one after another, and the way back; `None`: as they are."""

    gather: Tensor | None
    back: Tensor | None
    sizes: tuple[tuple[int, int], ...]  # (texts, longest) of each group
    real: tuple[Tensor | None, ...]  # (texts, longest): which rows are no padding; None: all

    def split(self, values: Tensor) -> list[Tensor]:
        """Cut `(T, ...)` into groups `(b, n, ...)`."""
        rows = values if self.gather is None else values.index_select(0, self.gather)
        pieces = rows.split([texts * longest for texts, longest in self.sizes])
        return [piece.unflatten(0, size) for piece, size in zip(pieces, self.sizes, strict=True)]

    def join(self, groups: Sequence[Tensor]) -> Tensor:
        """Undo `split`; padding falls away."""
        rows = (
            groups[0].flatten(0, 1)
            if len(groups) == 1
            else torch.cat([group.flatten(0, 1) for group in groups])
        )
        return rows if self.back is None else rows.index_select(0, self.back)


def attend(call: AttentionCall) -> Attended:
    """Attend group by group; equal to the reference kernel within rounding."""
    if call.sparse is not None:
        return spread(call, attend)
    if not call.q.shape[0]:
        nothing = torch.zeros(call.k.shape[0], device=call.k.device)
        none = torch.zeros(0, call.q.shape[1], device=call.k.device)
        return Attended(
            call.q.flatten(1),
            nothing if call.scored else None,
            none if call.measured else None,
        )
    starts_q = tuple(call.cu_q.tolist())
    starts_k = starts_q if call.cu_k is call.cu_q else tuple(call.cu_k.tolist())
    queries, keys = _sides(starts_q, starts_k, call.q.shape[1], call.q.device)
    explicit = call.scored or call.measured or call.dropout
    trains = torch.is_grad_enabled() or call.training
    if explicit or (trains and not _trains_fused(call)):
        return _explicit(call, queries, keys)
    parts = zip(
        *(side.split(rows) for side, rows in ((queries, call.q), (keys, call.k), (keys, call.v))),
        _biases(call, queries, keys),
        strict=True,
    )
    return Attended(queries.join([_fused(q, k, v, bias) for q, k, v, bias in parts]))


def _trains_fused(call: AttentionCall) -> bool:
    """Whether the fused kernel's backward pass is the faster: 1.2x in fp32, half as fast in bf16.

    Gradients of gates it would form in full.
    """
    low = torch.is_autocast_enabled(call.q.device.type)
    return call.gate is None and call.q.dtype == torch.float32 and not low


def _fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    # fp16 rounds `never` of fp32 to -inf, and a row of nothing else would be NaN
    mask = None if bias is None else bias.to(q.dtype).clamp_min(never(q.dtype))
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    context = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return context.transpose(1, 2).flatten(2)


def _explicit(call: AttentionCall, queries: _Side, keys: _Side) -> Attended:
    device = call.v.device.type
    low = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if low else call.v.dtype
    q, k, v = (rows.to(dtype) for rows in (call.q, call.k, call.v))
    log = None if call.gate is None else log_gate(call.gate)
    weight = _weights(call) if call.scored else None
    biases = _biases(replace(call, gate=None), queries, keys)
    groups = _Groups(queries, keys, biases, call.dropout, call.measured, torch.is_grad_enabled())
    apply: Any = _Attention.apply
    context, received, logsumexp = apply(q, k, v, log, weight, groups)
    return Attended(context.flatten(1), received, logsumexp)


def _weights(call: AttentionCall) -> Tensor:
    """Share of each query in the score, `(Tq,)` in fp32: `vote / (H * the votes of its text)`."""
    rows, heads, _ = call.q.shape
    dtype = torch.promote_types(call.q.dtype, torch.float32)
    vote = call.q.new_ones(rows, dtype=dtype) if call.vote is None else call.vote.to(dtype)
    text = torch.repeat_interleave(call.cu_q.diff(), output_size=rows)
    total = vote.new_zeros(len(call.cu_q) - 1).index_add(0, text, vote)
    return vote / (heads * total.clamp_min(torch.finfo(dtype).tiny)).index_select(0, text)


@dataclass(frozen=True)
class _Groups:
    """What attention in groups needs beside the tensors that may want gradients."""

    queries: _Side
    keys: _Side
    biases: list[Tensor | None]  # of padding and windows
    dropout: float
    measured: bool
    trains: bool  # whether to keep what the backward pass reads


class _Attention(torch.autograd.Function):
    """Attention and its score; of each group only the probabilities are kept, in the inputs' dtype.

    Autograd over the single operations keeps them up to four times, in fp32, and casts and copies
    between. Dropped probabilities are flagged by their sign. `log` is log g of the keys, `weight`
    the share of the queries in the score.
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
        contexts, received, logsumexps, kept = [], [], [], []
        rows = zip(
            *(queries.split(q), keys.split(k), keys.split(v)),
            *(_split(keys, log), _split_real(queries, weight), groups.biases),
            strict=True,
        )
        with torch.autocast(q.device.type, enabled=False):
            for q_g, k_g, v_g, log_g, weight_g, bias in rows:
                scores = _scores(q_g, k_g, log_g, bias)  # (b, H, nq, nk)
                if groups.measured:
                    high = torch.promote_types(scores.dtype, torch.float32)
                    logsumexps.append(scores.to(high).logsumexp(-1).transpose(1, 2))
                flagged = scores.softmax(-1)
                if weight_g is not None:  # in fp32, since thresholds compare the result
                    over_heads = flagged.sum(1, dtype=weight_g.dtype)
                    received.append((weight_g[:, None] @ over_heads).squeeze(1))
                if dropout:
                    flag_dropped_(flagged, dropout)
                left = flagged.relu() if dropout else flagged
                contexts.append((left @ v_g.transpose(1, 2)).transpose(1, 2))
                kept += [flagged] if groups.trains else []
        context = queries.join(contexts)
        context = context / (1 - dropout) if dropout else context
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(q, k, v, weight, context, *kept)
        ctx.groups = groups
        return (
            context,
            None if weight is None else keys.join(received),
            queries.join(logsumexps) if groups.measured else None,
        )

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, up: Tensor | None, up_received: Tensor | None, up_normaliser: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        q, k, v, weight, context, *kept = ctx.saved_tensors
        up = torch.zeros_like(context) if up is None else up
        groups, gated = ctx.groups, ctx.needs_input_grad[3]
        queries, keys, dropout = groups.queries, groups.keys, groups.dropout
        own = (up * context).sum(-1, keepdim=True)  # what softmax takes off, (Tq, H, 1)
        if up_normaliser is not None:
            own = own - up_normaliser.unsqueeze(-1).to(own.dtype)
        up = up / (1 - dropout) if dropout else up
        rows = zip(
            *(queries.split(q), keys.split(k), keys.split(v)),
            *(_split_real(queries, up), _split_real(queries, own), _split_real(queries, weight)),
            *(_split(keys, None if weight is None else up_received), kept),
            strict=True,
        )
        with torch.autocast(q.device.type, enabled=False):
            found = [_gradients(*row, dropped=dropout > 0, gated=gated) for row in rows]
        of_q, of_k, of_v, of_log, of_weight = zip(*found, strict=True)
        return (
            queries.join(of_q) * q.shape[-1] ** -0.5,
            keys.join(of_k),
            keys.join(of_v),
            keys.join(of_log) if gated else None,
            queries.join(of_weight)
            if ctx.needs_input_grad[4] and up_received is not None
            else None,
            None,
        )


def _scores(q: Tensor, k: Tensor, log: Tensor | None, bias: Tensor | None) -> Tensor:
    scores = q.transpose(1, 2) @ k.permute(0, 2, 3, 1)  # (b, H, nq, nk)
    if bias is not None:
        scores += bias.to(q.dtype).clamp_min(never(q.dtype))  # fp16 has no such number
    if log is not None:
        scores += log[:, None, None].to(q.dtype).clamp_min(never(q.dtype))
    return scores


def _gradients(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    up: Tensor,
    own: Tensor,
    weight: Tensor | None,
    up_received: Tensor | None,
    flagged: Tensor,
    *,
    dropped: bool,
    gated: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Gradients of one group: of q, k, v `(b, n, H, d)`, of `log` and `weight` `(b, n)`."""
    q, k, v, up, off = (rows.transpose(1, 2) for rows in (q, k, v, up, -own))
    before, left = (flagged.abs(), flagged.relu()) if dropped else (flagged, flagged)
    of_weight = None
    if weight is not None and up_received is not None:
        share = weight[:, None, :, None].to(q.dtype)
        wanted = up_received[:, None, None].to(q.dtype)  # (b, 1, 1, nk)
        heard = before @ wanted.transpose(2, 3)  # (b, H, nq, 1)
        of_weight = heard.sum(1, dtype=weight.dtype).squeeze(-1)
        off = (share * wanted) + (off - share * heard)
    scores = up @ v.transpose(2, 3)
    scores = scores.mul_(left).addcmul_(before, off) if dropped else scores.add_(off).mul_(left)
    # a product: `sum` would first copy the whole to fp32
    of_log = scores.new_ones(scores.shape[2]) @ scores if gated else None  # (b, H, nk)
    of_q = (scores @ k).transpose(1, 2)
    of_k = (scores.transpose(2, 3) @ q).transpose(1, 2)
    of_v = (left.transpose(2, 3) @ up).transpose(1, 2)
    high = torch.promote_types(scores.dtype, torch.float32)
    of_log = None if of_log is None else of_log.sum(1, dtype=high)
    return of_q, of_k, of_v, of_log, of_weight


def _split(side: _Side, values: Tensor | None) -> list[Tensor] | list[None]:
    return [None] * len(side.sizes) if values is None else side.split(values)


def _split_real(side: _Side, values: Tensor | None) -> list[Tensor] | list[None]:
    """Cut into groups, with zeros in place of padding."""
    if values is None:
        return [None] * len(side.sizes)
    pieces = zip(side.split(values), side.real, strict=True)
    return [
        piece if real is None else piece * real.view(*real.shape, *[1] * (piece.ndim - 2))
        for piece, real in pieces
    ]


def _biases(call: AttentionCall, queries: _Side, keys: _Side) -> list[Tensor | None]:
    """Form what is added to the scores of each group: `(b, 1, 1 or nq, nk)` in fp32, or nothing."""
    biases: list[Tensor | None] = [
        None if real is None else _forbid(~real)[:, None, None] for real in keys.real
    ]
    if call.gate is not None:
        gates = [log_gate(gate)[:, None, None] for gate in keys.split(call.gate)]
        biases = [
            gate if bias is None else bias + gate for bias, gate in zip(biases, gates, strict=True)
        ]
    if call.window is not None:
        assert call.position_q is not None
        assert call.position_k is not None
        places = zip(
            *(queries.split(call.position_q), keys.split(call.position_k), _split(keys, call.free)),
            strict=True,
        )
        far = [_forbid(_too_far(q, k, call.window, free))[:, None] for q, k, free in places]
        biases = [
            away if bias is None else bias + away for bias, away in zip(biases, far, strict=True)
        ]
    return biases


def _too_far(q: Tensor, k: Tensor, window: int, free: Tensor | None) -> Tensor:
    far = (q[:, :, None] - k[:, None]).abs() > window
    return far if free is None else far & ~free[:, None]


def _forbid(where: Tensor) -> Tensor:
    return torch.zeros(where.shape, device=where.device).masked_fill_(where, never(torch.float32))


@lru_cache(maxsize=32)  # the layers of a pass without removal share their groups
@torch.inference_mode(False)  # what is kept must also serve a later training step
def _sides(
    starts_q: tuple[int, ...], starts_k: tuple[int, ...], heads: int, device: torch.device
) -> tuple[_Side, _Side]:
    groups = _group(starts_q, starts_k, heads)
    queries = _side(groups, starts_q, device)
    return queries, queries if starts_k is starts_q else _side(groups, starts_k, device)


def _group(starts_q: tuple[int, ...], starts_k: tuple[int, ...], heads: int) -> list[list[int]]:
    """Cut the texts into groups of bounded size and padding, neighbours in length together."""
    queries = [b - a for a, b in pairwise(starts_q)]
    keys = [b - a for a, b in pairwise(starts_k)]
    groups: list[list[int]] = []
    pairs = 0
    for text in sorted(range(len(keys)), key=lambda t: (keys[t], queries[t]), reverse=True):
        mine = queries[text] * keys[text]
        if groups:
            area = (
                (len(groups[-1]) + 1)
                * max(queries[t] for t in (*groups[-1], text))
                * keys[groups[-1][0]]
            )
            if heads * area <= GROUP_ELEMENTS and pairs + mine >= (1 - MAX_PADDING) * area:
                groups[-1].append(text)
                pairs += mine
                continue
        groups.append([text])
        pairs = mine
    return groups


def _side(groups: list[list[int]], starts: tuple[int, ...], device: torch.device) -> _Side:
    rows: list[Tensor] = []
    real: list[Tensor | None] = []
    sizes: list[tuple[int, int]] = []
    for texts in groups:
        lengths = torch.tensor([starts[t + 1] - starts[t] for t in texts])
        longest = int(lengths.max())
        column = torch.arange(longest)
        # padding repeats the last row of its text (or, in a text without rows, some row): finite,
        # and never read
        last = (lengths - 1).clamp_min(0)[:, None]
        first = torch.tensor([min(starts[t], starts[-1] - 1) for t in texts])[:, None]
        rows.append((first + torch.minimum(column, last)).flatten())
        mask = column < lengths[:, None]
        real.append(None if bool(mask.all()) else mask.to(device))
        sizes.append((len(texts), longest))
    gather = torch.cat(rows)
    if gather.numel() == starts[-1] and bool((gather.diff() == 1).all()):
        return _Side(None, None, tuple(sizes), tuple(real))
    kept = torch.cat(
        [
            torch.ones(b * n, dtype=torch.bool) if m is None else m.flatten().cpu()
            for (b, n), m in zip(sizes, real, strict=True)
        ]
    )
    back = torch.empty(starts[-1], dtype=torch.long)
    back[gather[kept]] = kept.nonzero().squeeze(1)
    return _Side(gather.to(device), back.to(device), tuple(sizes), tuple(real))
