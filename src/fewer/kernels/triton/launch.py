"""What both Triton kernels read of a call."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fewer.kernels.call import AttentionCall
from fewer.kernels.sparse import offsets
from fewer.kernels.triton.config import Config, pad_head_size

__all__ = ["Launch", "prepare"]


@dataclass(frozen=True)
class Launch:
    """A call as the programs read it."""

    q: Tensor
    k: Tensor
    v: Tensor
    position_q: Tensor | None  # None without a window, as are the next two
    position_k: Tensor | None
    exempt: Tensor | None  # (B): number of keys that are visible from any distance
    gate: Tensor | None
    weight: Tensor | None
    window: int
    scale: float  # of the scores, which are in units of log2
    texts: int
    max_q: int  # at least the rows of every text
    max_k: int
    config: Config

    @property
    def constants(self) -> dict[str, int | str]:
        """What the programs are compiled for."""
        heads, width = self.q.shape[1:]
        return {
            "HEADS": heads,
            "WIDTH": width,
            "PADDED": pad_head_size(width),
            "ROWS": self.config.block_m,
            "KEYS": self.config.block_n,
            "PRECISION": self.config.precision,
            "num_warps": self.config.num_warps,
            "num_stages": self.config.num_stages,
        }

    @property
    def blocks_q(self) -> int:
        """Number of blocks of queries of the longest text."""
        return -(-self.max_q // self.config.block_m)

    @property
    def blocks_k(self) -> int:
        """Number of blocks of keys of the longest text."""
        return -(-self.max_k // self.config.block_n)


def prepare(call: AttentionCall, config: Config) -> Launch:
    """Prepare a call that is supported, without `sparse`; wait for the device if it must."""
    has_window = call.window is not None
    exempt = None
    if has_window and call.window_exempt is not None:
        exempt = offsets(call.window_exempt)[call.cu_k].diff()
    max_q = max_k = call.max_length
    if max_q is None or max_k is None:
        max_q, max_k = _longest(call)
    width = call.q.shape[2]
    return Launch(
        q=_join_columns(call.q),
        k=_join_columns(call.k),
        v=_join_columns(call.v),
        position_q=call.position_q if has_window else None,
        position_k=call.position_k if has_window else None,
        exempt=exempt,
        gate=None if call.gate is None else call.gate.contiguous(),
        weight=None if call.query_weight is None else call.query_weight.contiguous(),
        window=0 if call.window is None else min(call.window, 2**31 - 1),
        scale=width**-0.5 * math.log2(math.e),
        texts=call.cu_q.numel() - 1,
        max_q=min(max_q, call.q.shape[0]),
        max_k=min(max_k, call.k.shape[0]),
        config=config,
    )


def _longest(call: AttentionCall) -> tuple[int, int]:
    """Return the number of rows of the longest queries and keys of a text; waits once."""
    if call.cu_k is call.cu_q:
        longest = int(call.cu_q.diff().max())
        return longest, longest
    of_q, of_k = torch.stack([call.cu_q.diff().max(), call.cu_k.diff().max()]).tolist()
    return of_q, of_k


def _join_columns(states: Tensor) -> Tensor:
    """Return states whose columns are contiguous; rows and heads may be strided."""
    return states if states.stride(2) == 1 else states.contiguous()
