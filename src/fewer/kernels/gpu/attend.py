"""The kernel for CUDA devices: FlashAttention where it can, the Triton kernel where it must.

| call | in inference | in training |
|---|---|---|
| plain, and windows | Triton to heads of 64, FlashAttention beyond | FlashAttention |
| with gates | Triton | FlashAttention, log g in three more columns of q and k |
| attention received | Triton, in the same pass | Triton; its gradient by FlashAttention |
| a window over tokens of which some have left | Triton | groups (`fewer.kernels.sdpa`) |
| dropout | - | FlashAttention; in fp32 attention of nested tensors |
| fp32 | nested tensors; Triton where more is asked | nested tensors or groups |
| fp64, a logsumexp with gradients, a head size FlashAttention lacks | groups | groups |
| scores by distance (DeBERTa, MPNet) | groups | groups |

Without Triton, or in a torch without `varlen`, its rows go to groups too; that is said once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import import_module
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fewer.kernels.call import AttentionCall, AttentionOutput, Kernel, log_gate
from fewer.kernels.chunked import attend as attend_chunked
from fewer.kernels.gpu import flash
from fewer.kernels.gpu.flash import Ragged
from fewer.kernels.gpu.received import received as differentiable_received
from fewer.kernels.sdpa import attend as attend_sdpa
from fewer.kernels.sdpa import query_weights
from fewer.kernels.triton.support import supports, unavailable_reason

__all__ = ["attend"]


class Triton(NamedTuple):
    """The kernels that need Triton."""

    attend: Kernel
    received: Callable[[AttentionCall, Tensor], Tensor]


_HALF = (torch.float16, torch.bfloat16)
_LOG = logging.getLogger("fewer")
_SMALL_HEAD = 64  # up to it Triton's attention was timed: on an H100 about 1.15x as fast
_GATE_COLUMNS = 8  # of which three are used: head sizes are multiples of 8


def attend(call: AttentionCall) -> AttentionOutput:
    """Attend by the fastest kernel that computes the call; equal to the reference within rounding.

    Without a bound on the lengths (`call.max_length`) it looks at the device once.
    """
    if call.sparse is not None:
        if not call.sparse.is_band:
            return attend_chunked(call, attend)
        call = call.with_window()
    call = _in_autocast_dtype(call)
    is_training = torch.is_grad_enabled() or call.training
    triton = _triton()
    if not call.q.shape[0]:
        return attend_sdpa(call)
    if not is_training and triton is not None and _suits_triton(call) and supports(call):
        return triton.attend(call)
    lack = _lack(call, is_training, has_triton=triton is not None)
    if lack:
        _say_once(lack)
        return attend_sdpa(call)
    return _attend_flash(call, triton)


def _suits_triton(call: AttentionCall) -> bool:
    """Whether the Triton kernel is faster in inference, or computes what FlashAttention cannot."""
    if call.q.dtype in _HALF:
        is_small = call.q.shape[2] <= _SMALL_HEAD
        return is_small or call.needs_received or call.gate is not None or _has_gaps(call)
    asks_more = call.needs_received or call.gate is not None or call.needs_logsumexp
    return asks_more or call.window is not None


def _has_gaps(call: AttentionCall) -> bool:
    """Whether a window is over positions that packed rows do not tell."""
    return call.window is not None and not call.is_consecutive


def _lack(call: AttentionCall, is_training: bool, *, has_triton: bool) -> str | None:
    """Say why torch's kernels for texts of different lengths cannot compute the call, if so."""
    dtype, size = call.q.dtype, call.q.shape[2]
    if call.relative is not None:
        return "neither FlashAttention nor the Triton kernel adds scores by distance"
    needs_varlen = call.needs_received or call.needs_logsumexp or call.window is not None
    if dtype not in (*_HALF, torch.float32):
        return f"no kernel for texts of different lengths computes {dtype}"
    if dtype not in _HALF and needs_varlen:
        return "attention received, logsumexp and windows need fp16 or bf16, or Triton in inference"
    if size % 8 or size + _GATE_COLUMNS > flash.MAX_HEAD_SIZE:
        return f"FlashAttention has no heads of size {size}"
    if call.needs_logsumexp and is_training:
        return "FlashAttention has no gradient of the logsumexp"
    if call.window is not None and (call.dropout or not call.is_consecutive):
        return "FlashAttention has no window over texts with gaps, and none with dropout"
    if needs_varlen and not flash.has_varlen(call.q.device):
        return f"torch {torch.__version__} has no torch.nn.attention.varlen for {call.q.device}"
    if call.needs_received and not has_triton:
        return "attention received needs Triton, which is not installed or cannot run here"
    return None


def _attend_flash(call: AttentionCall, triton: Triton | None) -> AttentionOutput:
    width = call.q.shape[2]
    scale = width**-0.5
    ragged = _ragged(call)
    q, k, v = call.q, call.k, call.v
    if call.gate is not None:
        q, k, v = _with_gate(q, k, v, log_gate(call.gate), scale)
    logsumexp = None
    is_half = q.dtype in _HALF
    if is_half and not call.dropout and flash.has_varlen(q.device):
        context, logsumexp = flash.attend(q, k, v, ragged, scale, call.window)
    elif is_half and call.dropout and flash.has_dropout(q.device):
        context = flash.attend_dropped(q, k, v, ragged, scale, call.dropout)
    else:
        context = flash.attend_nested(q, k, v, ragged, scale, call.dropout)
    received = None
    if call.needs_received:
        assert triton is not None  # `_lack` has asked
        with torch.no_grad():
            if logsumexp is None:  # dropout comes after the probabilities
                _, logsumexp = flash.attend(q, k, v, ragged, scale, call.window)
            plain = _detached(call)
        weight = query_weights(call)
        received = differentiable_received(
            q, k, weight, ragged, scale, call.window, lambda: triton.received(plain, logsumexp)
        )
    return AttentionOutput(
        context[:, :, :width].flatten(1), received, logsumexp if call.needs_logsumexp else None
    )


def _ragged(call: AttentionCall) -> Ragged:
    if call.max_length is not None:
        return Ragged(call.cu_q, call.cu_k, call.max_length, call.max_length)
    longest = torch.stack([cu.diff().amax() for cu in (call.cu_q, call.cu_k)]).tolist()
    return Ragged(call.cu_q, call.cu_k, *longest)


def _with_gate(
    q: Tensor, k: Tensor, v: Tensor, log: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Add log g to the scores by more columns: ones for queries, parts of log g for keys.

    The parts are the leading digits of log g in the dtype and what these leave, so that their sum
    has the precision of fp32.
    """
    lowest = max(torch.finfo(q.dtype).min / 4, -1e30)  # q . k must stay finite in fp32
    bias = (log / scale).clamp_min(lowest)
    parts = [bias.to(q.dtype)]
    rest = bias.detach() - parts[0].detach().float()
    for _ in range(2):
        parts.append(rest.to(q.dtype))
        rest = rest - parts[-1].float()
    tokens, heads = k.shape[:2]
    columns = torch.stack(parts, -1)[:, None].expand(tokens, heads, len(parts))
    empty = _GATE_COLUMNS - len(parts)
    factors = q.new_ones(()).expand(len(q), heads, len(parts))
    return (
        F.pad(torch.cat((q, factors), -1), (0, empty)),
        F.pad(torch.cat((k, columns), -1), (0, empty)),
        F.pad(v, (0, _GATE_COLUMNS)),
    )


def _detached(call: AttentionCall) -> AttentionCall:
    gate, weight = (
        None if values is None else values.detach() for values in (call.gate, call.query_weight)
    )
    q, k, v = (states.detach() for states in (call.q, call.k, call.v))
    return replace(call, q=q, k=k, v=v, gate=gate, query_weight=weight, dropout=0.0, training=False)


def _in_autocast_dtype(call: AttentionCall) -> AttentionCall:
    device = call.q.device.type
    if not torch.is_autocast_enabled(device):
        return call
    dtype = torch.get_autocast_dtype(device)
    return replace(call, q=call.q.to(dtype), k=call.k.to(dtype), v=call.v.to(dtype))


@cache
def _triton() -> Triton | None:
    """Return the Triton kernels, `None` where they cannot run. Triton is imported only here."""
    if unavailable_reason():
        return None
    programs = (import_module(f"fewer.kernels.triton.{name}") for name in ("attention", "received"))
    attention, scores = programs
    return Triton(attention.attend, scores.received)


@cache
def _say_once(lack: str) -> None:
    _LOG.warning("attention runs in groups of texts, the slower way: %s", lack)
