"""Attention on a GPU with the attention received computed in the same launch.

A program computes one block of queries of one text and head by an online softmax. Attention
received needs the final sum of each row, so the program then walks over the keys a second time and
writes the sums of its columns to a place of its own, which a second launch sums in a fixed order:
the bits are the same in every run. A text of one block of keys needs no second walk. Texts of more
than `Config.buffered` queries would need too large a buffer: `received` computes theirs.

Every choice depends on the text's own lengths, so a text has the same bits in every batch, where
rows of q, k and v are aligned to 16 bytes.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fewer.kernels.call import AttentionCall, AttentionOutput
from fewer.kernels.chunked import attend as attend_chunked
from fewer.kernels.sdpa import attend as attend_sdpa
from fewer.kernels.triton.attention_programs import attend_program, merge_program
from fewer.kernels.triton.config import Config, choose_config, choose_received_config
from fewer.kernels.triton.launch import Launch, prepare
from fewer.kernels.triton.received import sum_received
from fewer.kernels.triton.support import supports

__all__ = ["attend"]


def attend(call: AttentionCall, *, config: Config | None = None) -> AttentionOutput:
    """Attend text by text; equal to the reference kernel within rounding.

    `config` replaces the block sizes, for benchmarks.
    """
    if not supports(call):
        return attend_sdpa(call)
    if call.sparse is not None:
        if not call.sparse.is_band:
            return attend_chunked(call, lambda chunks: attend(chunks, config=config))
        call = call.with_window()  # the kernel reads a window without copying keys
    rows, heads, width = call.q.shape
    context = call.q.new_empty(rows, heads * width)
    logsumexp = call.q.new_empty(rows, heads, dtype=torch.float32)
    received = call.k.new_empty(len(call.k), dtype=torch.float32) if call.needs_received else None
    if rows:
        launch = prepare(call, config or choose_config(call.q.dtype, width))
        with torch.cuda.device_of(call.q):
            _launch(call, launch, context, logsumexp, received)
            if received is not None and launch.max_q > launch.config.buffered:
                longer_than = launch.config.buffered
                of_sums = config or choose_received_config(call.q.dtype, width)
                launch = replace(launch, config=of_sums)
                sum_received(call, launch, logsumexp, received, longer_than=longer_than)
    elif received is not None:
        received.zero_()
    return AttentionOutput(context, received, logsumexp if call.needs_logsumexp else None)


def _launch(
    call: AttentionCall,
    launch: Launch,
    context: Tensor,
    logsumexp: Tensor,
    received: Tensor | None,
) -> None:
    heads, blocks, config = call.q.shape[1], launch.blocks_q, launch.config
    partial = ranges = None
    has_unbuffered = received is not None and launch.max_q > config.buffered
    if received is not None:
        buffered_blocks = min(blocks, -(-config.buffered // config.block_m))
        partial = received.new_empty(buffered_blocks, heads, len(received))
        if launch.position_k is not None:
            ranges = call.cu_k.new_empty(launch.texts, blocks, 2, dtype=torch.int32)
    attend_program[(launch.texts * heads * blocks,)](
        launch.q,
        launch.k,
        launch.v,
        context,
        logsumexp if call.needs_logsumexp or has_unbuffered else None,
        partial,
        ranges,
        call.cu_q,
        call.cu_k,
        launch.position_q,
        launch.position_k,
        launch.exempt,
        launch.gate,
        launch.weight,
        *launch.q.stride()[:2],
        *launch.k.stride()[:2],
        *launch.v.stride()[:2],
        launch.scale,
        launch.window,
        blocks,
        len(call.k),
        BUFFERED=config.buffered,
        **launch.constants,
    )
    if received is None or not len(received):
        return
    merge_program[(launch.texts * launch.blocks_k,)](
        partial,
        ranges,
        received,
        call.cu_q,
        call.cu_k,
        launch.exempt,
        launch.weight,
        blocks,
        launch.blocks_k,
        len(received),
        HEADS=heads,
        PADDED_HEADS=1 << (heads - 1).bit_length(),
        ROWS=config.block_m,
        KEYS=config.block_n,
        BUFFERED=config.buffered,
        num_warps=4,
    )
