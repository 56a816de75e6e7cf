"""Bindings of the compiled kernels: the library and its instruction sets.

The library is built with the package where there is a compiler (GCC, on x86-64 and ARM). It takes
plain pointers and depends on neither Python nor torch, so any version of either can call it.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from ctypes import POINTER, Structure, byref, c_int32, c_int64, c_uint64, c_void_p
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewer.kernels.cpu.openmp import parallel_region, pause_at_forks
from fewer.kernels.cpu.structs import (
    AttentionStruct,
    BlockCnnStruct,
    EmbedStruct,
    FeedForwardStruct,
    KeepBlocksStruct,
    LayBlocksStruct,
    LayersStruct,
    LinearStruct,
    MergeStruct,
    PoolBlocksStruct,
    RotateStruct,
    ScoreBlocksStruct,
)

__all__ = [
    "ACTIVATIONS",
    "Isa",
    "available_isas",
    "best_isa",
    "make_sampler",
    "prepack",
    "record_seconds",
    "run_kernel",
    "unavailable_reason",
]


class Isa(IntEnum):
    """An instruction set with its own kernels."""

    GENERIC = 0  # four floats at a time, on any processor
    AVX2 = 1
    AVX512 = 2
    AVX512_BF16 = 3
    AMX_BF16 = 4
    AVX2_INT8 = 5
    AVX512_VNNI = 6
    AMX_INT8 = 7

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that it multiplies; sums are fp32, of int8 exact."""
        if self >= Isa.AVX2_INT8:
            return torch.int8
        return torch.bfloat16 if self >= Isa.AVX512_BF16 else torch.float32

    @property
    def attention_dtype(self) -> torch.dtype:
        """The dtype of queries, keys, values and context beside its linear maps."""
        if self in (Isa.AVX512_VNNI, Isa.AMX_INT8):
            return torch.float32 if best_isa(torch.bfloat16) is None else torch.bfloat16
        return torch.float32 if self is Isa.AVX2_INT8 else self.dtype

    @property
    def columns(self) -> int:
        """Output columns per prepacked panel."""
        if self is Isa.GENERIC:
            return 8
        return 16 if self in (Isa.AVX2, Isa.AVX2_INT8) else 32


ACTIVATIONS = {"none": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3, "silu": 4, "tanh": 5}


_FUNCTIONS = {
    LinearStruct: "fewer_linear",
    FeedForwardStruct: "fewer_feed_forward",
    RotateStruct: "fewer_rotate",
    AttentionStruct: "fewer_attention",
    EmbedStruct: "fewer_embed",
    BlockCnnStruct: "fewer_judge",
    MergeStruct: "fewer_merge",
    LayBlocksStruct: "fewer_lay_blocks",
    PoolBlocksStruct: "fewer_pool_blocks",
    ScoreBlocksStruct: "fewer_score_blocks",
    KeepBlocksStruct: "fewer_keep_blocks",
    LayersStruct: "fewer_layers",
}


@cache
def _library() -> ctypes.CDLL | str:
    """Load the library, or return why it cannot be loaded."""
    folder = Path(__file__).parent
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = folder / f"_kernels{suffix}"
        if path.exists():
            try:
                library = _declare_types(ctypes.CDLL(str(path)))
                pause_at_forks()
                library.fewer_start_by_openmp(parallel_region())
                return library
            except (OSError, AttributeError) as error:  # or they lack a function
                return f"the compiled kernels cannot be loaded ({error}); install the package again"
    return (
        "the package was installed without its compiled kernels (they need GCC, on x86-64 or ARM; "
        "install again where there is a compiler)"
    )


def _declare_types(library: ctypes.CDLL) -> ctypes.CDLL:
    library.fewer_supported.restype = c_int64
    library.fewer_packed_bytes.restype = c_int64
    library.fewer_packed_bytes.argtypes = [c_int64, c_int64, c_int32]
    library.fewer_pack.argtypes = [c_void_p, c_int64, c_int64, c_int32, c_void_p]
    library.fewer_pack.restype = None
    library.fewer_start_by_openmp.argtypes = [c_void_p]
    library.fewer_start_by_openmp.restype = None
    library.fewer_sample.restype = c_uint64
    library.fewer_sample.argtypes = [c_void_p, c_void_p, c_int64]
    for struct, name in _FUNCTIONS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = [POINTER(struct)], None
    return library


@cache
def available_isas() -> tuple[Isa, ...]:
    """Return the instruction sets of this processor that have kernels, the oldest first."""
    library = _library()
    if isinstance(library, str):
        return ()
    bits = library.fewer_supported()
    return tuple(isa for isa in Isa if bits >> isa & 1)


def best_isa(dtype: torch.dtype) -> Isa | None:
    """Return the best instruction set that multiplies `dtype` here, or `None`."""
    return next((isa for isa in reversed(available_isas()) if isa.dtype is dtype), None)


def unavailable_reason() -> str | None:
    """Return why the compiled kernels cannot run here, or `None` if they can."""
    library = _library()
    if isinstance(library, str):
        return library
    if not available_isas():
        return f"this processor ({platform.machine()}) lacks AVX2, which all kernels need"
    return None


def run_kernel(arguments: Structure) -> None:
    """Run the kernel of a struct. The caller must keep its tensors alive."""
    function, seconds = _functions()[type(arguments)], _SECONDS.get()
    if seconds is None:
        function(byref(arguments))
        return
    start = time.perf_counter()
    function(byref(arguments))
    seconds.append(time.perf_counter() - start)


_SECONDS: ContextVar[list[float] | None] = ContextVar("fewer_seconds", default=None)


@contextmanager
def record_seconds() -> Iterator[list[float]]:
    """Collect the seconds of every kernel call inside the block."""
    seconds: list[float] = []
    token = _SECONDS.set(seconds)
    try:
        yield seconds
    finally:
        _SECONDS.reset(token)


@cache
def _functions() -> dict[type[Structure], Any]:
    library = _library()
    assert not isinstance(library, str)
    return {struct: getattr(library, name) for struct, name in _FUNCTIONS.items()}


def prepack(weight: Tensor, isa: Isa) -> Tensor:
    """Prepack a weight `(n, k)`, for int8 its integers; the result owns its memory."""
    library = _library()
    assert not isinstance(library, str)
    rows = weight.detach().float().contiguous()
    n, k = rows.shape
    size = library.fewer_packed_bytes(n, k, isa)
    prepacked = torch.empty(size + 64, dtype=torch.uint8)
    start = -prepacked.data_ptr() % 64  # whole cache lines
    prepacked = prepacked[start : start + size]
    library.fewer_pack(rows.data_ptr(), n, k, isa, prepacked.data_ptr())
    return prepacked


def make_sampler(tensors: Sequence[Tensor]) -> Callable[[], int]:
    """Return a function that hashes a few numbers of each tensor of the CPU.

    It reads the current addresses; call it only while no tensor has moved. Without the compiled
    kernels nothing is packed on a CPU, and the hash is always 0.
    """
    library = _library()
    tensors = [tensor for tensor in tensors if tensor.numel()]
    if isinstance(library, str) or not tensors:
        return lambda: 0
    count = len(tensors)
    pointers = (c_void_p * count)(*(tensor.data_ptr() for tensor in tensors))
    sizes = (c_int64 * count)(*(tensor.numel() * tensor.element_size() for tensor in tensors))
    function = library.fewer_sample
    return lambda: int(function(pointers, sizes, count))
