"""Whether the Triton kernels run on this machine, and which calls they compute."""

from __future__ import annotations

import importlib.metadata
import os
from functools import cache

import torch
from torch import Tensor

from fewer.kernels.call import AttentionCall
from fewer.kernels.cpu.guard import is_observed

__all__ = ["supports", "unavailable_reason", "unsupported_reason"]

OLDEST_TRITON = (3, 2)
OLDEST_CAPABILITY = (8, 0)  # the first with bf16
LARGEST_HEAD = 256
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def unavailable_reason() -> str | None:
    """Return why the Triton kernels cannot run here; `None` if they can.

    They run on a GPU, or in Triton's interpreter where `TRITON_INTERPRET=1` was in the environment
    before Triton was imported.
    """
    return _triton_reason() or (None if _is_interpreted() else _device_reason())


def supports(call: AttentionCall) -> bool:
    """Return whether the Triton kernels can compute a call."""
    return unsupported_reason(call) is None


def unsupported_reason(call: AttentionCall) -> str | None:
    """Return what the Triton kernels cannot compute of a call; `None` if they can compute it."""
    if reason := unavailable_reason():
        return reason
    if is_observed():
        return "a pass that is compiled, traced or otherwise observed"
    if call.training or (torch.is_grad_enabled() and any(t.requires_grad for t in _inputs(call))):
        return "a call that needs gradients"
    if call.dropout:
        return "dropout"
    if call.relative is not None:
        return "scores by distance"
    if not (call.q.dtype == call.k.dtype == call.v.dtype and call.q.dtype in DTYPES):
        return f"the dtypes {call.q.dtype}, {call.k.dtype}, {call.v.dtype} of q, k and v"
    if call.q.dtype == torch.bfloat16 and _is_interpreted():
        return "bfloat16 in Triton's interpreter, which multiplies its bits as integers"
    if not 1 <= call.q.shape[2] <= LARGEST_HEAD or call.v.shape[2] != call.q.shape[2]:
        return f"heads of {call.q.shape[2]} and {call.v.shape[2]} numbers"
    devices = {tensor.device for tensor in _inputs(call)}
    if len(devices) > 1:
        return f"tensors on several devices ({', '.join(sorted(map(str, devices)))})"
    if not (call.q.is_cuda or _is_interpreted()):
        return f"the device {call.q.device}"
    return None


def _inputs(call: AttentionCall) -> list[Tensor]:
    tensors = (
        *(call.q, call.k, call.v, call.cu_q, call.cu_k),
        *(call.position_q, call.position_k, call.window_exempt, call.gate, call.query_weight),
    )
    return [tensor for tensor in tensors if tensor is not None]


@cache
def _triton_reason() -> str | None:
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return "Triton is not installed"
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_TRITON:
        return f"Triton is {version}, and 3.2 or newer is needed"
    return None


def _is_interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def _device_reason() -> str | None:
    if torch.version.cuda is None or not torch.cuda.is_available():
        return "there is no CUDA device"
    capability = torch.cuda.get_device_capability()
    if capability < OLDEST_CAPABILITY:
        number = ".".join(map(str, capability))
        return f"the device has compute capability {number}, and 8.0 is needed"
    return None
