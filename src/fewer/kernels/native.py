"""The compiled kernel: one thread computes one head of one text and sums the attention received.

The largest matrix of scores is one block of queries against the keys of its own text, no padding is
computed, and the output of a text does not depend on its batch. In local layers only the pairs
within the window are computed. Calls that it does not support (gradients, compilers, dropout, other
devices and dtypes) go through `sdpa`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fewer.kernels.call import AttentionCall, AttentionOutput, log_gate
from fewer.kernels.chunked import attend as attend_chunked
from fewer.kernels.cpu.buffers import empty
from fewer.kernels.cpu.guard import is_pure_inference
from fewer.kernels.cpu.library import best_isa, run_kernel
from fewer.kernels.cpu.structs import AttentionStruct
from fewer.kernels.sdpa import attend as attend_sdpa
from fewer.kernels.sparse import offsets

__all__ = ["attend", "join_heads", "supports"]


def supports(call: AttentionCall) -> bool:
    """Return whether the compiled kernel can compute a call."""
    return (
        is_pure_inference()
        and not call.training
        and not call.dropout
        and call.q.device.type == "cpu"
        and call.q.dtype is call.k.dtype is call.v.dtype
        and best_isa(call.q.dtype) is not None
    )


def attend(call: AttentionCall) -> AttentionOutput:
    """Attend text by text; equal to the reference kernel within rounding."""
    if not supports(call):
        return attend_sdpa(call)
    if call.sparse is not None:
        if not call.sparse.is_band:
            return attend_chunked(call, attend)
        call = call.with_window()  # the kernel reads a window without copying keys
    q, k, v = join_heads(call.q), join_heads(call.k), join_heads(call.v)
    rows, heads, width = q.shape
    isa = best_isa(q.dtype)
    assert isa is not None
    context = empty(rows, heads * width, q.dtype)
    received = torch.zeros(k.shape[0]) if call.needs_received else None
    logsumexp = empty(rows, heads, torch.float32) if call.needs_logsumexp else None
    bias = None if call.gate is None else log_gate(call.gate)
    weight = None if call.query_weight is None else call.query_weight.float().contiguous()
    window = -1 if call.window is None else call.window
    exempt = None
    if call.window_exempt is not None and call.window is not None:
        exempt = _count_per_text(call.window_exempt, call.cu_k)
    relative = _relative_inputs(call)
    run_kernel(
        AttentionStruct(
            q.data_ptr(),
            k.data_ptr(),
            v.data_ptr(),
            q.stride(0),
            k.stride(0),
            v.stride(0),
            call.cu_q.data_ptr(),
            call.cu_k.data_ptr(),
            call.cu_q.numel() - 1,
            heads,
            width,
            _pointer(relative.position_q),
            _pointer(relative.position_k),
            window,
            _pointer(exempt),
            _pointer(relative.bucket),
            relative.reach,
            _pointer(relative.keys),
            _pointer(relative.queries),
            _pointer(relative.bias),
            _pointer(bias),
            _pointer(weight),
            _pointer(received),
            _pointer(logsumexp),
            context.data_ptr(),
            q.dtype is torch.bfloat16,
            isa,
            torch.get_num_threads(),
        )
    )
    return AttentionOutput(context, received, logsumexp)


class _RelativeInputs(NamedTuple):
    """The relative scores of a call as the kernel reads them, and positions."""

    bucket: Tensor | None
    reach: int
    keys: Tensor | None
    queries: Tensor | None
    bias: Tensor | None
    position_q: Tensor | None
    position_k: Tensor | None


def _relative_inputs(call: AttentionCall) -> _RelativeInputs:
    relative = call.relative
    if relative is None:
        return _RelativeInputs(None, 0, None, None, None, call.position_q, call.position_k)
    assert call.position_q is not None
    assert call.position_k is not None
    keys, queries = (
        None if states is None else states.to(call.q.dtype).contiguous()
        for states in (relative.key, relative.query)
    )
    return _RelativeInputs(
        relative.bucket.int().contiguous(),
        relative.reach,
        keys,
        queries,
        None if relative.bias is None else relative.bias.float().contiguous(),
        call.position_q.long().contiguous(),
        call.position_k.long().contiguous(),
    )


def join_heads(states: Tensor) -> Tensor:
    """Return states whose heads are contiguous in each row; rows may be strided.

    Slices of a fused projection have such rows, and are not copied.
    """
    width = states.shape[2]
    are_joined = states.stride(2) == 1 and states.stride(1) == width
    return states if are_joined else states.contiguous()


def _count_per_text(flags: Tensor, cu: Tensor) -> Tensor:
    """Count the flagged tokens of each text."""
    return offsets(flags)[cu].diff()


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
