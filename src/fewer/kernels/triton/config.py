"""Block sizes of the Triton kernels, by dtype and head size."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = [
    "BUFFERED_QUERIES",
    "Config",
    "choose_config",
    "choose_received_config",
    "pad_head_size",
]

# Texts of more queries get their attention received from logsumexp, in a launch of its own: the
# buffer of the fused sums has this number / block_m fp32 numbers per key and head.
BUFFERED_QUERIES = 4096


@dataclass(frozen=True)
class Config:
    """Block sizes and launch parameters.

    They decide the order of the sums, so they never depend on the batch: a text has the same bits
    in every batch.
    """

    block_m: int  # queries per block
    block_n: int  # keys per block
    num_warps: int
    num_stages: int
    buffered: int = BUFFERED_QUERIES  # largest number of queries whose sums go to the buffer
    precision: str = "ieee"  # of products in fp32: "tf32x3" uses tensor cores, "tf32" is coarse


# By padded head size. Those of 32 and 64 were the fastest of six on an H100 (case kernels/configs
# of benchmarks/gpu); the others are chosen to compile for compute capability 9.0 with next to no
# spilled register (tests/slow/test_triton_programs.py).
HALF_PRECISION = {
    16: Config(64, 64, 4, 3),
    32: Config(64, 32, 4, 4),
    64: Config(128, 64, 4, 3),
    128: Config(128, 64, 8, 2),
    256: Config(64, 32, 8, 2),
}
# Of the scores from logsumexp, which sum a block of scores in registers.
HALF_PRECISION_RECEIVED = {
    16: Config(64, 64, 8, 2),
    32: Config(64, 32, 4, 4),
    64: Config(64, 32, 4, 4),
    128: Config(64, 64, 8, 2),
    256: Config(64, 32, 8, 2),
}
# Without tensor cores the operands lie in registers: more stages spill them.
FULL_PRECISION = {
    16: Config(32, 32, 8, 1),
    32: Config(32, 32, 8, 1),
    64: Config(32, 32, 8, 1),
    128: Config(16, 16, 8, 1),
    256: Config(16, 16, 8, 1),
}


def choose_config(dtype: torch.dtype, head_size: int) -> Config:
    """Return the configuration of attention for a dtype and head size."""
    table = FULL_PRECISION if dtype == torch.float32 else HALF_PRECISION
    return table[pad_head_size(head_size)]


def choose_received_config(dtype: torch.dtype, head_size: int) -> Config:
    """Return the configuration of the scores from logsumexp."""
    table = FULL_PRECISION if dtype == torch.float32 else HALF_PRECISION_RECEIVED
    return table[pad_head_size(head_size)]


def pad_head_size(head_size: int) -> int:
    """Return the width of a block: the next power of two, at least 16, which a GPU multiplies."""
    return max(16, 1 << (head_size - 1).bit_length())
