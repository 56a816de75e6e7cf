"""The compiled kernel: a thread takes a head of a text, and sums the score on the way.

No matrix of scores exists but one block of queries against the keys of its own text, no padding is
computed, and a text's numbers do not depend on what it is batched with. In local layers only the
pairs within the window are computed. What it does not do (gradients, compilers, dropout, other
devices and dtypes) goes through `sdpa`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewer.kernels.call import Attended, AttentionCall, log_gate
from fewer.kernels.chunked import attend as spread
from fewer.kernels.cpu.buffers import empty
from fewer.kernels.cpu.guard import only_numbers_matter
from fewer.kernels.cpu.library import AttentionStruct, best, unavailable
from fewer.kernels.cpu.library import call as run
from fewer.kernels.sdpa import attend as attend_plainly
from fewer.kernels.sparse import offsets

__all__ = ["attend", "fits", "missing", "side_by_side"]


def missing() -> str | None:
    """Say why this kernel cannot run here, or `None` if it can."""
    return unavailable()


def fits(call: AttentionCall) -> bool:
    """Tell whether the compiled kernel can carry a call out."""
    return (
        only_numbers_matter()
        and not call.training
        and not call.dropout
        and call.q.device.type == "cpu"
        and call.q.dtype is call.k.dtype is call.v.dtype
        and best(call.q.dtype) is not None
    )


def attend(call: AttentionCall) -> Attended:
    """Attend text by text; equal to the reference kernel within rounding."""
    if not fits(call):
        return attend_plainly(call)
    if call.sparse is not None:
        if not call.sparse.is_band:
            return spread(call, attend)
        call = call.by_window()  # which a task keeps to without a copy of keys
    q, k, v = side_by_side(call.q), side_by_side(call.k), side_by_side(call.v)
    rows, heads, width = q.shape
    isa = best(q.dtype)
    assert isa is not None
    context = empty(rows, heads * width, q.dtype)
    received = torch.zeros(k.shape[0]) if call.scored else None
    logsumexp = empty(rows, heads, torch.float32) if call.measured else None
    bias = None if call.gate is None else log_gate(call.gate)
    vote = None if call.vote is None else call.vote.float().contiguous()
    window = -1 if call.window is None else call.window
    free = None if call.free is None or call.window is None else _counts(call.free, call.cu_k)
    run(
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
            _pointer(call.position_q),
            _pointer(call.position_k),
            window,
            _pointer(free),
            _pointer(bias),
            _pointer(vote),
            _pointer(received),
            _pointer(logsumexp),
            context.data_ptr(),
            q.dtype is torch.bfloat16,
            isa,
            torch.get_num_threads(),
        )
    )
    return Attended(context, received, logsumexp)


def side_by_side(states: Tensor) -> Tensor:
    """Heads side by side in each row; rows may be apart, as in a fused projection."""
    width = states.shape[2]
    side_by_side = states.stride(2) == 1 and states.stride(1) == width
    return states if side_by_side else states.contiguous()


def _counts(free: Tensor, cu: Tensor) -> Tensor:
    """How many keys of each text are free."""
    return offsets(free)[cu].diff()


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
