"""Linear maps, feed-forward blocks, rotary positions and embeddings on the compiled kernels.

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
from fewer.kernels.cpu.library import ACTIVATIONS, Isa, best_isa, prepack, run_kernel
from fewer.kernels.cpu.quantise import MAX_ERROR, MAX_INPUTS, measure_error, quantise
from fewer.kernels.cpu.structs import (
    EmbedStruct,
    FeedForwardStruct,
    LinearStruct,
    NormStruct,
    RotateStruct,
    WeightStruct,
)

__all__ = ["Norm", "Weight", "check_positions", "embed", "feed_forward", "linear", "rotate"]


@dataclass(frozen=True)
class Norm:
    """A LayerNorm or RMS norm for the kernels."""

    gamma: Tensor
    beta: Tensor | None
    struct: NormStruct

    @classmethod
    def from_module(cls, norm: nn.LayerNorm) -> Norm:
        """Convert a norm over the last dimension; its weights are not copied if they are fp32."""
        gamma = norm.weight.detach().float().contiguous()
        beta = None if norm.bias is None else norm.bias.detach().float().contiguous()
        return cls(gamma, beta, NormStruct(gamma.data_ptr(), _pointer(beta), norm.eps))

    @classmethod
    def rms(cls, weight: Float[Tensor, "D"], eps: float) -> Norm:
        """Return an RMS norm; the weight is not copied if it is fp32."""
        gamma = weight.detach().float().contiguous()
        return cls(gamma, None, NormStruct(gamma.data_ptr(), None, eps, True))


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


_NO_NORM, _NO_WEIGHT = NormStruct(), WeightStruct()


def linear(
    x: Float[Tensor, "T K"],
    weight: Weight,
    *,
    input_norm: Norm | None = None,
    activation: str = "none",
    factor: Float[Tensor, "T N"] | None = None,
    residual: Float[Tensor, "T N"] | None = None,
    norm: Norm | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "T N"]:
    """Compute norm(act(input_norm(x) W^T + b) * factor + residual); with a norm in fp32."""
    _check_width(x, weight.struct.k, "x")
    keeps_dtype = input_norm is None and x.dtype is weight.isa.attention_dtype
    x = x if keeps_dtype else x.float()
    x = x if x.stride(1) == 1 else x.contiguous()
    factor = _prepare_rows(factor, weight.struct.n, "factor")
    residual = _prepare_rows(residual, weight.struct.n, "residual")
    out = empty(x.shape[0], weight.struct.n, dtype)
    run_kernel(
        LinearStruct(
            x.data_ptr(),
            x.stride(0),
            x.shape[0],
            _norm_struct(input_norm, weight.struct.k, "input_norm"),
            weight.struct,
            _pointer(factor),
            0 if factor is None else factor.stride(0),
            _pointer(residual),
            0 if residual is None else residual.stride(0),
            _norm_struct(norm, weight.struct.n, "norm"),
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
    x: Float[Tensor, "T D"],
    up: Weight,
    down: Weight,
    norm: Norm | None,
    activation: str,
    *,
    gate: Weight | None = None,
    input_norm: Norm | None = None,
) -> Float[Tensor, "T D"]:
    """Compute norm(x + down(act(up(y)) * gate(y))) in fp32, where y is input_norm(x).

    Inner states of one block of rows exist at a time.
    """
    for width in (up.struct.k, down.struct.n, up.struct.k if gate is None else gate.struct.k):
        _check_width(x, width, "x and norm")
    for weight in (up, up if gate is None else gate):
        if weight.struct.n != down.struct.k:
            raise ValueError(
                f"down must take the {weight.struct.n} inner states of up and gate; got "
                f"{down.struct.k} inputs."
            )
    x = x.float().contiguous()
    if up.isa is not down.isa or (gate is not None and gate.isa is not up.isa):
        inner = linear(x, up, input_norm=input_norm, activation=activation)
        if gate is not None:
            inner = linear(x, gate, input_norm=input_norm, factor=inner)
        return linear(inner, down, residual=x, norm=norm)
    out = empty(x.shape[0], x.shape[1], torch.float32)
    run_kernel(
        FeedForwardStruct(
            x.data_ptr(),
            x.shape[0],
            _norm_struct(input_norm, up.struct.k, "x and norm"),
            up.struct,
            _NO_WEIGHT if gate is None else gate.struct,
            down.struct,
            _norm_struct(norm, down.struct.n, "x and norm"),
            out.data_ptr(),
            ACTIVATIONS[activation],
            up.isa,
            torch.get_num_threads(),
        )
    )
    return out


def rotate(
    x: Tensor,
    head_width: int,
    tables: tuple[Float[Tensor, "P d"], Float[Tensor, "P d"]],
    position: Int[Tensor, "T"],
    isa: Isa,
) -> None:
    """Turn the pairs (i, i + d/2) of each head of x `(T, heads * d)` in place, in fp32.

    `tables` holds cosines and sines by position; their second halves equal the first.
    """
    cos, sin = tables
    heads = x.shape[1] // head_width
    for tensor, name in ((x, "x"), (cos, "cos"), (sin, "sin")):
        _check_width(tensor, heads * head_width if name == "x" else head_width, name)
    if x.dtype not in (torch.float32, isa.attention_dtype) or x.stride(1) != 1 or head_width % 2:
        raise ValueError(
            f"x must have rows of even heads in fp32 or {isa.attention_dtype}; got {x.dtype}, "
            f"strides {x.stride()} and heads of {head_width}."
        )
    position = position.long().contiguous()
    if not len(position):
        return
    check_positions(position, len(x), min(len(cos), len(sin)))
    run_kernel(
        RotateStruct(
            x.data_ptr(),
            x.stride(0),
            len(x),
            heads,
            head_width,
            cos.data_ptr(),
            sin.data_ptr(),
            position.data_ptr(),
            x.dtype is torch.bfloat16,
            isa,
            torch.get_num_threads(),
        )
    )


def check_positions(position: Int[Tensor, "T"], rows: int, limit: int) -> None:
    """Raise `ValueError` unless there is a position in [0, limit) for each row."""
    low, high = (int(bound) for bound in position.aminmax())
    if low < 0 or high >= limit or len(position) != rows:
        raise ValueError(
            f"position must have {rows} entries in [0, {limit}); got {len(position)} in "
            f"[{low}, {high}]."
        )


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


def _prepare_rows(rows: Tensor | None, width: int, name: str) -> Tensor | None:
    """Return rows as the kernels read them."""
    if rows is None:
        return None
    _check_width(rows, width, name)
    return rows.float().contiguous()


def _norm_struct(norm: Norm | None, width: int, name: str) -> NormStruct:
    if norm is None:
        return _NO_NORM
    _check_width(norm.gamma, width, name)
    return norm.struct


def _check_width(tensor: Tensor, width: int, name: str) -> None:
    """Check a width: the kernels would read past the end where torch raises an error."""
    if tensor.shape[-1] != width:
        raise ValueError(f"{name} must have a width of {width}; got shape {tuple(tensor.shape)}.")
