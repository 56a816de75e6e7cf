"""Linear maps, feed-forward blocks and embeddings on the compiled kernels.

Weights are prepacked once. Operations are batch-invariant: a row of the output depends neither on
its place nor on the number of rows. Rows are fp32, or bf16 between two maps. In int8 each row is
quantised on the way, with a scale of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer.kernels.cpu.buffers import empty
from fewer.kernels.cpu.library import (
    ACTIVATIONS,
    EmbedStruct,
    FeedForwardStruct,
    Isa,
    LinearStruct,
    NormStruct,
    WeightStruct,
    best_isa,
    prepack,
    run_kernel,
)
from fewer.kernels.cpu.quantise import MAX_ERROR, MAX_INPUTS, measure_error, quantise

__all__ = ["Norm", "Weight", "embed", "feed_forward", "linear"]


@dataclass(frozen=True)
class Norm:
    """A LayerNorm for the kernels."""

    gamma: Tensor
    beta: Tensor | None
    struct: NormStruct

    @classmethod
    def from_module(cls, norm: nn.LayerNorm) -> Norm:
        """Convert a norm over the last dimension; its weights are not copied if they are fp32."""
        gamma = norm.weight.detach().float().contiguous()
        beta = None if norm.bias is None else norm.bias.detach().float().contiguous()
        pointer = None if beta is None else beta.data_ptr()
        return cls(gamma, beta, NormStruct(gamma.data_ptr(), pointer, norm.eps))


@dataclass(frozen=True)
class Weight:
    """A weight `(n, k)` prepacked for one instruction set, with its bias.

    `scale` holds the scales of the outputs in int8. `unquantised` is the reason why a weight meant
    for int8 is in the dtype of attention instead.
    """

    isa: Isa
    prepacked: Tensor
    bias: Tensor | None
    struct: WeightStruct
    scale: Tensor | None = None
    unquantised: str = ""

    @classmethod
    def from_modules(cls, modules: Sequence[nn.Linear], isa: Isa) -> Weight:
        """Prepack linear maps of the same input as one; weights are copied, modules do not change.

        Either all or none must have a bias.
        """
        weight = torch.cat([module.weight.detach().float() for module in modules])
        biases = [module.bias.detach().float() for module in modules if module.bias is not None]
        return cls.from_matrix(weight, torch.cat(biases) if biases else None, isa)

    @classmethod
    def from_matrix(cls, weight: Tensor, bias: Tensor | None, isa: Isa) -> Weight:
        """Prepack a matrix; for int8 quantise it, unless its error would be too large."""
        scale, reason = None, ""
        if isa.dtype is torch.int8:
            integers, scale = quantise(weight.float())
            reason = _refuse_int8(weight, integers, scale)
            weight, scale = (weight, None) if reason else (integers, scale)
            isa = _isa_beside(isa) if reason else isa
        prepacked = prepack(weight, isa)
        struct = WeightStruct(prepacked.data_ptr(), _pointer(bias), _pointer(scale), *weight.shape)
        return cls(isa, prepacked, bias, struct, scale, reason)

    def take_first(self, n: int) -> Weight:
        """Return a view of the first `n` outputs."""
        old = self.struct
        return replace(self, struct=WeightStruct(old.packed, old.bias, old.scale, n, old.k))

    def drop_first(self, n: int) -> Weight | None:
        """Return a view of the outputs from `n` on; `None` if `n` is not the start of a panel."""
        outputs = self.struct.n
        panels = -(-outputs // self.isa.columns)
        if n % self.isa.columns or self.prepacked.numel() % panels:
            return None
        start = self.struct.packed + self.prepacked.numel() // panels * (n // self.isa.columns)
        bias, scale = (None if part is None else part[n:] for part in (self.bias, self.scale))
        struct = WeightStruct(start, _pointer(bias), _pointer(scale), outputs - n, self.struct.k)
        return replace(self, bias=bias, scale=scale, struct=struct)


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _refuse_int8(weight: Tensor, integers: Tensor, scale: Tensor) -> str:
    """Return why a weight must not be multiplied in int8, or nothing."""
    if weight.shape[1] > MAX_INPUTS:
        return f"{weight.shape[1]} inputs, more than {MAX_INPUTS}"
    error = measure_error(weight, integers, scale)
    if error > MAX_ERROR:
        return f"a relative error of {error:.1%}, more than {MAX_ERROR:.0%}"
    return ""


def _isa_beside(isa: Isa) -> Isa:
    """Return the instruction set of weights that are not quantised, and of attention."""
    beside = best_isa(isa.attention_dtype)
    assert beside is not None  # AVX2 is everywhere that int8 is
    return beside


_NO_NORM = NormStruct()


def linear(
    x: Float[Tensor, "T K"],
    weight: Weight,
    *,
    activation: str = "none",
    residual: Float[Tensor, "T N"] | None = None,
    norm: Norm | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "T N"]:
    """Compute norm(act(x W^T + b) + residual); with a norm in fp32."""
    _check_width(x, weight.struct.k, "x")
    x = x if x.dtype is weight.isa.attention_dtype else x.float()
    x = x if x.stride(1) == 1 else x.contiguous()
    if residual is not None:
        _check_width(residual, weight.struct.n, "residual")
        residual = residual.float().contiguous()
    if norm is not None:
        _check_width(norm.gamma, weight.struct.n, "norm")
    out = empty(x.shape[0], weight.struct.n, dtype)
    run_kernel(
        LinearStruct(
            x.data_ptr(),
            x.stride(0),
            x.shape[0],
            weight.struct,
            None if residual is None else residual.data_ptr(),
            0 if residual is None else residual.stride(0),
            _NO_NORM if norm is None else norm.struct,
            out.data_ptr(),
            weight.struct.n,
            x.dtype is torch.bfloat16,
            dtype is torch.bfloat16,
            ACTIVATIONS[activation],
            weight.isa,
            torch.get_num_threads(),
        )
    )
    return out


def feed_forward(
    x: Float[Tensor, "T D"], up: Weight, down: Weight, norm: Norm, activation: str
) -> Float[Tensor, "T D"]:
    """Compute norm(x + down(act(up(x)))) in fp32, with inner states of one block of rows."""
    for tensor in (x, norm.gamma):
        _check_width(tensor, up.struct.k, "x and norm")
        _check_width(tensor, down.struct.n, "x and norm")
    if up.struct.n != down.struct.k:
        raise ValueError(
            f"down must take the {up.struct.n} inner states of up; got {down.struct.k} inputs."
        )
    x = x.float().contiguous()
    if up.isa is not down.isa:
        inner = linear(x, up, activation=activation)
        return linear(inner, down, residual=x, norm=norm)
    out = empty(x.shape[0], x.shape[1], torch.float32)
    run_kernel(
        FeedForwardStruct(
            x.data_ptr(),
            x.shape[0],
            up.struct,
            down.struct,
            norm.struct,
            out.data_ptr(),
            ACTIVATIONS[activation],
            up.isa,
            torch.get_num_threads(),
        )
    )
    return out


def embed(
    ids: Sequence[Int[Tensor, "T"] | None],
    tables: Sequence[Float[Tensor, "V D"] | None],
    norm: Norm,
    isa: Isa,
) -> Float[Tensor, "T D"]:
    """Compute norm(words[ids[0]] + segments[ids[1]] + positions[ids[2]]); ids must be in range.

    Tables must be contiguous and fp32. A table of `None` adds nothing.
    """
    words = ids[0]
    assert words is not None
    assert tables[0] is not None
    rows, width = words.shape[0], tables[0].shape[1]
    for tensor in (*tables, norm.gamma):
        if tensor is not None:
            _check_width(tensor, width, "tables and norm")
    indices = [None if tensor is None else tensor.long().contiguous() for tensor in ids]
    out = empty(rows, width, torch.float32)
    run_kernel(
        EmbedStruct(
            *(None if table is None else table.data_ptr() for table in tables),
            *(None if tensor is None else tensor.data_ptr() for tensor in indices),
            rows,
            width,
            norm.struct,
            out.data_ptr(),
            isa,
            torch.get_num_threads(),
        )
    )
    return out


def _check_width(tensor: Tensor, width: int, name: str) -> None:
    """Check a width: the kernels would read past the end where torch raises an error."""
    if tensor.shape[-1] != width:
        raise ValueError(f"{name} must have a width of {width}; got shape {tuple(tensor.shape)}.")
