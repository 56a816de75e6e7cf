"""Texts of like length side by side, in plain PyTorch; runs on every device.

A loop over single texts pays some 30 microseconds a text and layer, which is most of the time for
short texts; one padded batch pays for its longest text. So texts are grouped by length such that at
most an eighth of a group is padding. Rows are gathered once for all groups, and given back once: a
gather a group would cost the backward pass a full-size sum a group.

Inference without scores goes through `scaled_dot_product_attention`. Everything else forms the
probabilities of one group at a time, never of the batch: attention received needs them, and on a
CPU the fused kernel's backward pass is slower than that of two matrix products.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from fewer.kernels.call import Attended, AttentionCall, log_gate, never

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

    def join(self, groups: list[Tensor]) -> Tensor:
        """Undo `split`; padding falls away."""
        rows = (
            groups[0].flatten(0, 1)
            if len(groups) == 1
            else torch.cat([group.flatten(0, 1) for group in groups])
        )
        return rows if self.back is None else rows.index_select(0, self.back)


def attend(call: AttentionCall) -> Attended:
    """Attend group by group; equal to the reference kernel within rounding."""
    if not call.q.shape[0]:
        nothing = torch.zeros(call.k.shape[0], device=call.k.device)
        return Attended(call.q.flatten(1), nothing if call.scored else None)
    starts_q = tuple(call.cu_q.tolist())
    starts_k = starts_q if call.cu_k is call.cu_q else tuple(call.cu_k.tolist())
    queries, keys = _sides(starts_q, starts_k, call.q.shape[1], call.q.device)
    fused = not call.scored and not call.dropout and not torch.is_grad_enabled()
    inner = _fused if fused else _explicit
    biases = _biases(call, queries, keys)
    votes = _votes(call, queries) if call.scored else [None] * len(biases)
    parts = zip(
        queries.split(call.q), keys.split(call.k), keys.split(call.v), biases, votes, strict=True
    )
    outcome = [
        inner(call, q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), bias, vote)
        for q, k, v, bias, vote in parts
    ]
    received = [part.received for part in outcome if part.received is not None]
    return Attended(
        queries.join([part.context for part in outcome]),
        keys.join(received) if call.scored else None,
    )


def _fused(
    call: AttentionCall, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, vote: Tensor | None
) -> Attended:
    # fp16 would round `never` of fp32 to -inf, and a row of nothing else to NaN
    mask = None if bias is None else bias.clamp_min(never(q.dtype)).to(q.dtype)
    return Attended(
        F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
    )


def _explicit(
    call: AttentionCall, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, vote: Tensor | None
) -> Attended:
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)  # (b, H, nq, nk)
    probabilities = (scores if bias is None else scores + bias).softmax(-1, dtype=torch.float32)
    received = _received(probabilities, vote) if call.scored else None
    dropped = F.dropout(probabilities, call.dropout) if call.dropout else probabilities
    return Attended((dropped.to(v.dtype) @ v).transpose(1, 2).flatten(2), received)


def _received(probabilities: Tensor, vote: Tensor | None) -> Tensor:
    # sums, not matrix products: autocast would take those to bf16, and thresholds compare the
    # result
    over_heads = probabilities.mean(1)  # (b, nq, nk)
    if vote is None:
        return over_heads.sum(1) / max(1, over_heads.shape[1])  # nobody asks: nothing received
    total = vote.sum(1).clamp_min(torch.finfo(torch.float32).tiny)
    return (over_heads * vote[:, :, None]).sum(1) / total[:, None]


def _votes(call: AttentionCall, queries: _Side) -> list[Tensor | None]:
    """Weight of each query in the score, `(b, nq)` in fp32; padding has none."""
    if call.vote is None:
        return [None if real is None else real.float() for real in queries.real]
    votes = zip(queries.split(call.vote.float()), queries.real, strict=True)
    return [vote if real is None else vote * real for vote, real in votes]


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
        places = zip(queries.split(call.position_q), keys.split(call.position_k), strict=True)
        far = [
            _forbid((q[:, :, None] - k[:, None]).abs() > call.window)[:, None] for q, k in places
        ]
        biases = [
            away if bias is None else bias + away for bias, away in zip(biases, far, strict=True)
        ]
    return biases


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
