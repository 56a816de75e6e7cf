"""Attention over texts of different lengths by torch's own kernels, with gradients.

`torch.nn.attention.varlen` (as it is from torch 2.11 on) is FlashAttention in fp16 and bf16, and
returns the logsumexp. It cannot drop out; the operator below it can, which nested tensors call too,
at several milliseconds of Python for each layer. `scaled_dot_product_attention` of nested tensors
is in every release that we support; it computes fp32 too.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

__all__ = [
    "MAX_HEAD_SIZE",
    "Ragged",
    "attend",
    "attend_dropped",
    "attend_nested",
    "has_dropout",
    "has_varlen",
]

MAX_HEAD_SIZE = 256  # of FlashAttention
ALIGNED = 16  # bytes that FlashAttention reads at once, from any address

_PARAMETERS = (  # that torch's operator must begin with: it has no public name
    *("query", "key", "value", "cum_seq_q", "cum_seq_k", "max_q", "max_k"),
    *("dropout_p", "is_causal", "return_debug_mask", "scale"),
)


@dataclass(frozen=True)
class Ragged:
    """Where each text begins among the rows of queries and of keys, and the longest of each."""

    cu_q: Int[Tensor, "B+1"]
    cu_k: Int[Tensor, "B+1"]
    max_q: int
    max_k: int


@cache
def _varlen() -> tuple[Callable[..., Any], Any] | None:
    """Return the function and what asks it for the logsumexp, `None` where torch has neither.

    That of torch 2.10 takes neither scale nor window.
    """
    try:
        module = import_module("torch.nn.attention.varlen")
        options = signature(module.varlen_attn).parameters
        if not {"return_aux", "scale", "window_size"} <= set(options):
            return None
        return module.varlen_attn, module.AuxRequest(lse=True)
    except (ImportError, AttributeError):
        return None


def has_varlen(device: torch.device) -> bool:
    """Return whether this torch has FlashAttention for texts of different lengths there."""
    return device.type == "cuda" and _varlen() is not None


def attend(
    q: Float[Tensor, "Tq H d"],
    k: Float[Tensor, "Tk H d"],
    v: Float[Tensor, "Tk H d"],
    ragged: Ragged,
    scale: float,
    window: int | None = None,
) -> tuple[Float[Tensor, "Tq H d"], Float[Tensor, "Tq H"]]:
    """Return the context and the logsumexp, which has no gradient.

    Head sizes are multiples of 8 up to `MAX_HEAD_SIZE`; a window counts packed rows.
    """
    varlen = _varlen()
    assert varlen is not None  # the caller asks `has_varlen` first
    function, aux = varlen
    cu_q, cu_k = _offsets(ragged)
    context, logsumexp = function(
        _align(q),
        _align(k),
        _align(v),
        cu_q,
        cu_k,
        ragged.max_q,
        ragged.max_k,
        return_aux=aux,
        scale=scale,
        window_size=(-1, -1) if window is None else (window, window),
    )
    logsumexp = logsumexp.detach()
    # its documentation says (Tq, H), its code returns (H, Tq)
    return context, logsumexp.T if logsumexp.shape[0] == q.shape[1] else logsumexp


@cache
def _dropping() -> Callable[..., Any] | None:
    """Return the operator with dropout, `None` where this torch's takes other parameters."""
    try:
        operator = torch.ops.aten._flash_attention_forward.default
    except AttributeError:
        return None
    names = tuple(argument.name for argument in operator._schema.arguments)
    function: Callable[..., Any] = operator
    return function if names[: len(_PARAMETERS)] == _PARAMETERS else None


def has_dropout(device: torch.device) -> bool:
    """Return whether `attend_dropped` runs there."""
    return device.type == "cuda" and _dropping() is not None


def attend_dropped(
    q: Float[Tensor, "Tq H d"],
    k: Float[Tensor, "Tk H d"],
    v: Float[Tensor, "Tk H d"],
    ragged: Ragged,
    scale: float,
    dropout: float,
) -> Float[Tensor, "Tq H d"]:
    """Return the context with dropout of the probabilities, in fp16 and bf16, with gradients."""
    operator = _dropping()
    assert operator is not None  # the caller asks `has_dropout` first
    longest = ragged.max_q, ragged.max_k
    context: Tensor
    context, *_ = operator(
        *map(_align, (q, k, v)), *_offsets(ragged), *longest, dropout, False, False, scale=scale
    )
    return context


def _offsets(ragged: Ragged) -> tuple[Tensor, Tensor]:
    cu_q = ragged.cu_q.to(torch.int32)
    return cu_q, cu_q if ragged.cu_k is ragged.cu_q else ragged.cu_k.to(torch.int32)


def _align(states: Float[Tensor, "T H d"]) -> Float[Tensor, "T H d"]:
    """Copy states whose rows do not begin at multiples of `ALIGNED` bytes, as a split may."""
    size = states.element_size()
    is_aligned = states.stride(2) == 1 and not (
        states.data_ptr() % ALIGNED or any(step * size % ALIGNED for step in states.stride()[:2])
    )
    return states if is_aligned else states.clone(memory_format=torch.contiguous_format)


def attend_nested(
    q: Float[Tensor, "Tq H d"],
    k: Float[Tensor, "Tk H d"],
    v: Float[Tensor, "Tk H d"],
    ragged: Ragged,
    scale: float,
    dropout: float = 0.0,
) -> Float[Tensor, "Tq H d"]:
    """Return the context, by attention of nested tensors."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*nested tensors is in prototype")
        queries = _nest(q, ragged.cu_q, ragged.max_q)
        keys, values = (_nest(states, ragged.cu_k, ragged.max_k) for states in (k, v))
        nested = F.scaled_dot_product_attention(
            queries, keys, values, dropout_p=dropout, scale=scale
        )
        context: Tensor = nested.transpose(1, 2).values()
    return context


def _nest(states: Tensor, cu: Tensor, longest: int) -> Tensor:
    """View `(T, H, d)` as texts `(B, H, n, d)`."""
    # an empty text has neither queries nor keys; told of it, torch would leave its fast kernels
    nested: Tensor = torch.nested.nested_tensor_from_jagged(
        states.contiguous(), cu, min_seqlen=1, max_seqlen=longest
    )
    return nested.transpose(1, 2)
