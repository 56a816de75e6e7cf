"""The compiled kernels: find the library, say what this processor can do, mirror its structs.

The library is built with the package where there is a compiler (GCC, x86-64). It knows nothing of
Python or of torch: plain pointers go in, so any version of either can call it.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from ctypes import POINTER, Structure, byref, c_double, c_int32, c_int64, c_uint64, c_void_p
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewer.kernels.cpu.forking import pause_at_forks

__all__ = [
    "ACTIVATIONS",
    "AttentionStruct",
    "EmbedStruct",
    "FeedForwardStruct",
    "Isa",
    "JudgeStruct",
    "LinearStruct",
    "NormStruct",
    "WeightStruct",
    "available",
    "best",
    "call",
    "clocked",
    "pack",
    "sample",
    "unavailable",
]


class Isa(IntEnum):
    """A set of instructions with kernels of its own."""

    AVX2 = 1
    AVX512 = 2
    AVX512_BF16 = 3
    AMX_BF16 = 4

    @property
    def dtype(self) -> torch.dtype:
        """What it multiplies; sums are fp32 always."""
        return torch.bfloat16 if self >= Isa.AVX512_BF16 else torch.float32

    @property
    def columns(self) -> int:
        """Outputs that are packed together."""
        return 16 if self is Isa.AVX2 else 32


ACTIVATIONS = {"none": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3, "silu": 4, "tanh": 5}


class WeightStruct(Structure):
    """`Weight` of abi.h."""

    _fields_ = (("packed", c_void_p), ("bias", c_void_p), ("n", c_int64), ("k", c_int64))


class NormStruct(Structure):
    """`Norm` of abi.h."""

    _fields_ = (("gamma", c_void_p), ("beta", c_void_p), ("eps", c_double))


class LinearStruct(Structure):
    """`LinearCall` of abi.h."""

    _fields_ = (
        ("x", c_void_p),
        ("x_stride", c_int64),
        ("rows", c_int64),
        ("weight", WeightStruct),
        ("residual", c_void_p),
        ("residual_stride", c_int64),
        ("norm", NormStruct),
        ("out", c_void_p),
        ("out_stride", c_int64),
        ("x_bf16", c_int32),
        ("out_bf16", c_int32),
        ("activation", c_int32),
        ("isa", c_int32),
        ("threads", c_int32),
    )


class FeedForwardStruct(Structure):
    """`FeedForwardCall` of abi.h."""

    _fields_ = (
        ("x", c_void_p),
        ("rows", c_int64),
        ("up", WeightStruct),
        ("down", WeightStruct),
        ("norm", NormStruct),
        ("out", c_void_p),
        ("activation", c_int32),
        ("isa", c_int32),
        ("threads", c_int32),
    )


class AttentionStruct(Structure):
    """`AttentionCall` of abi.h."""

    _fields_ = (
        ("q", c_void_p),
        ("k", c_void_p),
        ("v", c_void_p),
        ("q_stride", c_int64),
        ("k_stride", c_int64),
        ("v_stride", c_int64),
        ("cu_q", c_void_p),
        ("cu_k", c_void_p),
        ("texts", c_int64),
        ("heads", c_int64),
        ("width", c_int64),
        ("position_q", c_void_p),
        ("position_k", c_void_p),
        ("window", c_int64),
        ("free", c_void_p),
        ("bias", c_void_p),
        ("vote", c_void_p),
        ("received", c_void_p),
        ("logsumexp", c_void_p),
        ("out", c_void_p),
        ("bf16", c_int32),
        ("isa", c_int32),
        ("threads", c_int32),
    )


class EmbedStruct(Structure):
    """`EmbedCall` of abi.h."""

    _fields_ = (
        ("words", c_void_p),
        ("segments", c_void_p),
        ("positions", c_void_p),
        ("word", c_void_p),
        ("segment", c_void_p),
        ("position", c_void_p),
        ("rows", c_int64),
        ("width", c_int64),
        ("norm", NormStruct),
        ("out", c_void_p),
        ("isa", c_int32),
        ("threads", c_int32),
    )


class JudgeStruct(Structure):
    """`JudgeCall` of abi.h."""

    _fields_ = (
        ("q", c_void_p),
        ("k", c_void_p),
        ("q_stride", c_int64),
        ("k_stride", c_int64),
        ("logsumexp", c_void_p),
        ("presence", c_void_p),
        ("rows", c_void_p),
        ("pairs", c_void_p),
        ("blocks", c_int64),
        ("maps", c_int64),
        ("heads", c_int64),
        ("width", c_int64),
        ("size", c_int64),
        ("first", c_void_p),
        ("first_bias", c_void_p),
        ("second", c_void_p),
        ("second_bias", c_void_p),
        ("last", c_void_p),
        ("last_bias", c_void_p),
        ("out", c_void_p),
        ("bf16", c_int32),
        ("isa", c_int32),
        ("threads", c_int32),
    )


_DOORS = {
    LinearStruct: "fewer_linear",
    FeedForwardStruct: "fewer_feed_forward",
    AttentionStruct: "fewer_attention",
    EmbedStruct: "fewer_embed",
    JudgeStruct: "fewer_judge",
}


@cache
def _library() -> ctypes.CDLL | str:
    """Load the library, or say why there is none."""
    folder = Path(__file__).parent
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = folder / f"_kernels{suffix}"
        if path.exists():
            try:
                library = _typed(ctypes.CDLL(str(path)))
                pause_at_forks()
                return library
            except OSError as error:
                return f"the compiled kernels cannot be loaded ({error})"
    return (
        "the package was installed without its compiled kernels (they need GCC and x86-64; "
        "install again where there is a compiler)"
    )


def _typed(library: ctypes.CDLL) -> ctypes.CDLL:
    library.fewer_supported.restype = c_int64
    library.fewer_packed_bytes.restype = c_int64
    library.fewer_packed_bytes.argtypes = [c_int64, c_int64, c_int32]
    library.fewer_pack.argtypes = [c_void_p, c_int64, c_int64, c_int32, c_void_p]
    library.fewer_pack.restype = None
    library.fewer_sample.restype = c_uint64
    library.fewer_sample.argtypes = [c_void_p, c_void_p, c_int64]
    for struct, name in _DOORS.items():
        door = getattr(library, name)
        door.argtypes, door.restype = [POINTER(struct)], None
    return library


@cache
def available() -> tuple[Isa, ...]:
    """Return the instruction sets this processor has kernels for, plainest first."""
    library = _library()
    if isinstance(library, str):
        return ()
    found = library.fewer_supported()
    return tuple(isa for isa in Isa if found >> isa & 1)


def best(dtype: torch.dtype) -> Isa | None:
    """Return the best instruction set that multiplies `dtype` here, or `None`."""
    return next((isa for isa in reversed(available()) if isa.dtype is dtype), None)


def unavailable() -> str | None:
    """Say why the compiled kernels cannot be used at all, or `None` if they can."""
    library = _library()
    if isinstance(library, str):
        return library
    if not available():
        return f"this processor ({platform.machine()}) lacks AVX2, the least the kernels need"
    return None


def call(arguments: Structure) -> None:
    """Run the kernel that belongs to a struct. The caller keeps alive what its pointers name."""
    door, clocks = _doors()[type(arguments)], _CLOCKS.get()
    if clocks is None:
        door(byref(arguments))
        return
    start = time.perf_counter()
    door(byref(arguments))
    clocks.append(time.perf_counter() - start)


_CLOCKS: ContextVar[list[float] | None] = ContextVar("fewer_clocks", default=None)


@contextmanager
def clocked() -> Iterator[list[float]]:
    """Collect the seconds that every kernel call inside the block takes."""
    clocks: list[float] = []
    token = _CLOCKS.set(clocks)
    try:
        yield clocks
    finally:
        _CLOCKS.reset(token)


@cache
def _doors() -> dict[type[Structure], Any]:
    library = _library()
    assert not isinstance(library, str)
    return {struct: getattr(library, name) for struct, name in _DOORS.items()}


def pack(weight: Tensor, isa: Isa) -> Tensor:
    """Lay a weight `(n, k)` out as the kernels of `isa` read it; the result owns its memory."""
    library = _library()
    assert not isinstance(library, str)
    rows = weight.detach().float().contiguous()
    n, k = rows.shape
    size = library.fewer_packed_bytes(n, k, isa)
    packed = torch.empty(size + 64, dtype=torch.uint8)
    start = -packed.data_ptr() % 64  # whole cache lines
    packed = packed[start : start + size]
    library.fewer_pack(rows.data_ptr(), n, k, isa, packed.data_ptr())
    return packed


def sample(tensors: Sequence[Tensor]) -> Callable[[], int]:
    """Return a function that reads a few numbers of each tensor, where they lie now, into one.

    Call it only while all of the tensors still lie there.
    """
    library = _library()
    assert not isinstance(library, str)
    filled = [one for one in tensors if one.numel()]
    count = len(filled)
    pointers = (c_void_p * count)(*(one.data_ptr() for one in filled))
    sizes = (c_int64 * count)(*(one.numel() * one.element_size() for one in filled))
    door = library.fewer_sample
    return lambda: int(door(pointers, sizes, count))
