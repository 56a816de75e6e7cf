"""Block-Skim's predictor on the compiled kernels: from attention to logits, block by block.

In plain PyTorch the maps of all blocks are formed, normed, rectified and averaged one after the
other in memory, which takes several times as long as the arithmetic: here a block's maps stay in
the cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fewer.kernels.cpu.guard import only_numbers_matter
from fewer.kernels.cpu.library import JudgeStruct, best
from fewer.kernels.cpu.library import call as run
from fewer.kernels.native import side_by_side

__all__ = ["Convolution", "JudgeCall", "judge", "judges"]


@dataclass(frozen=True)
class Convolution:
    """A 3 x 3 convolution with its norm folded in."""

    weight: Float[Tensor, "out in 3 3"]
    bias: Float[Tensor, "out"]


@dataclass(frozen=True)
class JudgeCall:
    """Attention of pairs of blocks, and the network that judges it."""

    query: Float[Tensor, "T H d"]
    key: Float[Tensor, "T H d"]
    logsumexp: Float[Tensor, "T H"]
    presence: Float[Tensor, "T"] | None  # how far each key takes part, 0..1; None: all do
    rows: Int[Tensor, "K size"]  # the token at each place of each block, -1 where nobody is
    pairs: Int[Tensor, "P M 2"]  # of blocks, which asks and which is asked, for each map
    first: Convolution
    second: Convolution
    last: Float[Tensor, "2 F"]
    last_bias: Float[Tensor, "2"]


def judges(query: Tensor) -> bool:
    """Tell whether the compiled kernel can judge what was asked by these queries."""
    on_cpu = query.device.type == "cpu"
    return only_numbers_matter() and on_cpu and best(torch.float32) is not None


def judge(call: JudgeCall) -> Float[Tensor, "P 2"]:
    """Return the two logits of each pair of blocks, in fp32."""
    isa = best(torch.float32)
    assert isa is not None
    low = call.query.dtype is call.key.dtype is torch.bfloat16
    dtype = torch.bfloat16 if low else torch.float32
    query, key = (side_by_side(one.to(dtype)) for one in (call.query, call.key))
    out = torch.empty(len(call.pairs), 2)
    held = [
        one.contiguous()
        for one in (
            call.logsumexp.float(),
            torch.ones(0) if call.presence is None else call.presence.float(),
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
    logsumexp, presence, rows, pairs, *network = (one.data_ptr() for one in held)
    _, heads, width = query.shape
    run(
        JudgeStruct(
            query.data_ptr(),
            key.data_ptr(),
            query.stride(0),
            key.stride(0),
            logsumexp,
            None if call.presence is None else presence,
            rows,
            pairs,
            len(call.pairs),
            call.pairs.shape[1],
            heads,
            width,
            call.rows.shape[1],
            *network,
            out.data_ptr(),
            low,
            isa,
            torch.get_num_threads(),
        )
    )
    return out
