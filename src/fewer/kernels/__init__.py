"""Attention kernels by name."""

from __future__ import annotations

from fewer._validation.names import check_known
from fewer.kernels.call import AttentionCall, AttentionOutput, Kernel
from fewer.kernels.cpu.library import unavailable_reason
from fewer.kernels.gpu.attend import attend as gpu
from fewer.kernels.native import attend as native
from fewer.kernels.pattern import Pattern
from fewer.kernels.reference import attend as reference
from fewer.kernels.sdpa import attend as sdpa

__all__ = ["KERNELS", "AttentionCall", "AttentionOutput", "Kernel", "Pattern", "kernel"]

KERNELS: dict[str, Kernel] = {
    "gpu": gpu,
    "native": native,
    "reference": reference,
    "sdpa": sdpa,
}


def _auto(call: AttentionCall) -> AttentionOutput:
    """Attend by the fastest kernel of the call's device that runs on this machine."""
    if call.q.is_cuda:
        return gpu(call)
    return sdpa(call) if unavailable_reason() else native(call)


def kernel(name: str) -> Kernel:
    """Return a kernel by name; `auto` is the fastest one of the device and the machine.

    Raises `ValueError` for an unknown name, and for `native` where it was not built or cannot run.
    """
    if name == "auto":
        return _auto
    check_known(name, ["auto", *sorted(KERNELS)], "kernel")
    if name == "native" and (reason := unavailable_reason()):
        raise ValueError(f"kernel must be one that runs here; got 'native': {reason}. Use 'auto'.")
    return KERNELS[name]
