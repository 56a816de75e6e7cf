"""Block-Skim's predictor on the compiled kernels: from attention to logits, block by block.

Plain PyTorch forms, normalises, rectifies and averages the attention maps of all blocks one after
another in memory, which takes several times as long as the arithmetic. Here the maps of one block
stay in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fewer.kernels.cpu.guard import is_pure_inference
from fewer.kernels.cpu.library import best_isa, run_kernel
from fewer.kernels.cpu.structs import BlockCnnStruct
from fewer.kernels.native import join_heads

__all__ = ["BlockCnnCall", "Convolution", "block_cnn_logits", "supports"]


@dataclass(frozen=True)
class Convolution:
    """A 3 x 3 convolution with its batch norm folded in."""

    weight: Float[Tensor, "out in 3 3"]
    bias: Float[Tensor, "out"]


@dataclass(frozen=True)
class BlockCnnCall:
    """Attention between pairs of blocks, and the network that classifies it."""

    query: Float[Tensor, "T H d"]
    key: Float[Tensor, "T H d"]
    logsumexp: Float[Tensor, "T H"]
    participation: Float[Tensor, "T"] | None  # weight of each key, 0..1; None: all 1
    rows: Int[Tensor, "K size"]  # token at each place of each block, -1 where there is none
    pairs: Int[Tensor, "P M 2"]  # query block and key block of each attention map
    first: Convolution
    second: Convolution
    last: Float[Tensor, "2 F"]
    last_bias: Float[Tensor, "2"]


def supports(query: Tensor) -> bool:
    """Return whether the compiled kernel can compute the logits for these queries."""
    on_cpu = query.device.type == "cpu"
    return is_pure_inference() and on_cpu and best_isa(torch.float32) is not None


def block_cnn_logits(call: BlockCnnCall) -> Float[Tensor, "P 2"]:
    """Return the two logits of each pair of blocks, in fp32."""
    isa = best_isa(torch.float32)
    assert isa is not None
    is_bf16 = call.query.dtype is call.key.dtype is torch.bfloat16
    dtype = torch.bfloat16 if is_bf16 else torch.float32
    query, key = (join_heads(states.to(dtype)) for states in (call.query, call.key))
    out = torch.empty(len(call.pairs), 2)
    tensors = [  # keeps alive what the pointers below name
        tensor.contiguous()
        for tensor in (
            call.logsumexp.float(),
            torch.ones(0) if call.participation is None else call.participation.float(),
            call.rows,
            call.pairs,
            call.first.weight.permute(1, 2, 3, 0),
            call.first.bias,
            call.second.weight.permute(1, 2, 3, 0),
            call.second.bias,
            call.last,
            call.last_bias,
        )
    ]
    logsumexp, participation, rows, pairs, *network = (tensor.data_ptr() for tensor in tensors)
    _, heads, width = query.shape
    run_kernel(
        BlockCnnStruct(
            query.data_ptr(),
            key.data_ptr(),
            query.stride(0),
            key.stride(0),
            logsumexp,
            None if call.participation is None else participation,
            rows,
            pairs,
            len(call.pairs),
            call.pairs.shape[1],
            heads,
            width,
            call.rows.shape[1],
            *network,
            out.data_ptr(),
            is_bf16,
            isa,
            torch.get_num_threads(),
        )
    )
    return out
