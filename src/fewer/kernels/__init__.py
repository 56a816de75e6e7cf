"""The one door to attention: `attend(call)`, by name."""

from __future__ import annotations

from fewer.kernels.call import Attended, AttentionCall, Kernel
from fewer.kernels.reference import attend as reference
from fewer.kernels.sdpa import attend as sdpa

__all__ = ["KERNELS", "Attended", "AttentionCall", "Kernel", "kernel"]

KERNELS: dict[str, Kernel] = {"reference": reference, "sdpa": sdpa}


def kernel(name: str) -> Kernel:
    """Look up a kernel; `auto` is the fastest that runs everywhere.

    Raises `ValueError` for an unknown name.
    """
    if name == "auto":
        return sdpa
    if name not in KERNELS:
        raise ValueError(
            f"unknown kernel {name!r}; choose one of: auto, {', '.join(sorted(KERNELS))}"
        )
    return KERNELS[name]
