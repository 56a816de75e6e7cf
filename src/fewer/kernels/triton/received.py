"""Attention received on a GPU from queries, keys and the logsumexp of the queries' scores.

It goes with kernels that return logsumexp but no attention received, such as FlashAttention. A
program computes one block of keys of one text over all heads and queries in a fixed order, in
registers: there is no buffer, and the bits are the same in every run and in every batch.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fewer.kernels.call import AttentionCall
from fewer.kernels.triton.config import Config, choose_received_config
from fewer.kernels.triton.launch import Launch, prepare
from fewer.kernels.triton.received_program import received_program
from fewer.kernels.triton.support import unsupported_reason

__all__ = ["received", "sum_received"]


def received(
    call: AttentionCall, logsumexp: Float[Tensor, "Tq H"], *, config: Config | None = None
) -> Float[Tensor, "Tk"]:
    """Compute the attention that each key receives, as `AttentionOutput.received`.

    Strides of `logsumexp` are free: FlashAttention's is `(H, Tq)`, transposed. A query whose
    logsumexp is infinite, or that sees no key, gives nothing but counts in the mean; a
    `query_weight` of 0 leaves it out.

    Raises `ValueError` for calls that the kernel does not support.
    """
    reason = unsupported_reason(call)
    if reason is None and call.sparse is not None and not call.sparse.is_band:
        reason = "a sparse pattern other than a sliding window"
    if reason is not None:
        raise ValueError(
            f"call must be supported by the Triton kernels; got {reason}. Use another kernel."
        )
    if call.sparse is not None:
        call = call.with_window()
    sums = call.k.new_empty(len(call.k), dtype=torch.float32)
    if not len(call.q):
        return sums.zero_()
    launch = prepare(call, config or choose_received_config(call.q.dtype, call.q.shape[2]))
    with torch.cuda.device_of(call.q):
        sum_received(call, launch, logsumexp, sums)
    return sums


def sum_received(
    call: AttentionCall,
    launch: Launch,
    logsumexp: Tensor,
    sums: Tensor,
    *,
    longer_than: int = -1,
) -> None:
    """Write the attention received by the keys of texts of more than `longer_than` queries."""
    if not len(sums):
        return
    received_program[(launch.texts * launch.blocks_k,)](
        launch.q,
        launch.k,
        logsumexp,
        sums,
        call.cu_q,
        call.cu_k,
        launch.position_q,
        launch.position_k,
        launch.exempt,
        launch.gate,
        launch.weight,
        *launch.q.stride()[:2],
        *launch.k.stride()[:2],
        *logsumexp.stride(),
        launch.scale,
        launch.window,
        launch.blocks_k,
        longer_than,
        **launch.constants,
    )
