"""Linear maps, feed-forward blocks and embeddings by the compiled kernels.

Weights are packed once. Every row of a result is worked out alike, wherever it stands and however
many rows there are. Rows are fp32, or bf16 on the way between two maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    call,
    pack,
)

__all__ = ["Norm", "Weight", "embed", "feed_forward", "linear"]


@dataclass(frozen=True)
class Norm:
    """A LayerNorm as the kernels read it."""

    gamma: Tensor
    beta: Tensor | None
    struct: NormStruct

    @classmethod
    def of(cls, norm: nn.LayerNorm) -> Norm:
        """Read a module over the last dimension; its numbers are not copied if they are fp32."""
        gamma = norm.weight.detach().float().contiguous()
        beta = None if norm.bias is None else norm.bias.detach().float().contiguous()
        pointer = None if beta is None else beta.data_ptr()
        return cls(gamma, beta, NormStruct(gamma.data_ptr(), pointer, norm.eps))


@dataclass(frozen=True)
class Weight:
    """A weight `(n, k)` laid out for one instruction set, with its bias."""

    isa: Isa
    packed: Tensor
    bias: Tensor | None
    struct: WeightStruct

    @classmethod
    def of(cls, maps: Sequence[nn.Linear], isa: Isa) -> Weight:
        """Pack maps of the same input side by side; weights are copied, the maps stay as they are.

        Either all have a bias or none has.
        """
        weight = torch.cat([one.weight.detach().float() for one in maps])
        biases = [one.bias.detach().float() for one in maps if one.bias is not None]
        return cls.packing(weight, torch.cat(biases) if biases else None, isa)

    @classmethod
    def packing(cls, weight: Tensor, bias: Tensor | None, isa: Isa) -> Weight:
        """Pack a matrix."""
        packed = pack(weight, isa)
        pointer = None if bias is None else bias.data_ptr()
        return cls(isa, packed, bias, WeightStruct(packed.data_ptr(), pointer, *weight.shape))

    def first(self, n: int) -> Weight:
        """Use only the first `n` outputs; no memory is taken."""
        struct = WeightStruct(self.struct.packed, self.struct.bias, n, self.struct.k)
        return Weight(self.isa, self.packed, self.bias, struct)

    def after(self, n: int) -> Weight | None:
        """Use only the outputs from `n` on; `None` where packing does not allow a cut there."""
        whole = self.struct.n
        panels = -(-whole // self.isa.columns)
        if n % self.isa.columns or self.packed.numel() % panels:
            return None
        start = self.struct.packed + self.packed.numel() // panels * (n // self.isa.columns)
        bias = None if self.bias is None else self.bias[n:]
        pointer = None if bias is None else bias.data_ptr()
        struct = WeightStruct(start, pointer, whole - n, self.struct.k)
        return Weight(self.isa, self.packed, bias, struct)


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
    """Norm(act(x W^T + b) + residual); a norm gives fp32."""
    _check(x, weight.struct.k, "x")
    x = x if x.dtype is weight.isa.dtype else x.float()
    x = x if x.stride(1) == 1 else x.contiguous()
    if residual is not None:
        _check(residual, weight.struct.n, "residual")
        residual = residual.float().contiguous()
    if norm is not None:
        _check(norm.gamma, weight.struct.n, "norm")
    out = empty(x.shape[0], weight.struct.n, dtype)
    call(
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
    """Norm(x + down(act(up(x)))) in fp32; the inner states exist a block of rows at a time."""
    for part in (x, norm.gamma):
        _check(part, up.struct.k, "x and norm")
        _check(part, down.struct.n, "x and norm")
    if up.struct.n != down.struct.k:
        raise ValueError(
            f"{up.struct.n} inner states, but the map after them takes {down.struct.k}"
        )
    x = x.float().contiguous()
    out = empty(x.shape[0], x.shape[1], torch.float32)
    call(
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
    """Norm(words[ids[0]] + segments[ids[1]] + positions[ids[2]]); ids must be in range.

    Tables are contiguous, in fp32. A table that is `None` adds nothing.
    """
    words = ids[0]
    assert words is not None
    assert tables[0] is not None
    rows, width = words.shape[0], tables[0].shape[1]
    for part in (*tables, norm.gamma):
        if part is not None:
            _check(part, width, "tables and norm")
    held = [None if one is None else one.long().contiguous() for one in ids]
    out = empty(rows, width, torch.float32)
    call(
        EmbedStruct(
            *(None if table is None else table.data_ptr() for table in tables),
            *(None if one is None else one.data_ptr() for one in held),
            rows,
            width,
            norm.struct,
            out.data_ptr(),
            isa,
            torch.get_num_threads(),
        )
    )
    return out


def _check(part: Tensor, width: int, name: str) -> None:
    """Compare widths: the kernels would read past the end where torch raises an error."""
    if part.shape[-1] != width:
        raise ValueError(f"{name} of shape {tuple(part.shape)}, wanted a width of {width}")
