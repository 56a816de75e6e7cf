"""Faster training with the modules of a model, with the same result.

Plain modules are computed from their tensors: modules of the class of torch, or of the class that
replaces it in an optimized model, without hooks or patches. Adapters and quantised layers are
called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeGuard, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewer.kernels.cpu.batch_invariant import BatchInvariantLinear
from fewer.kernels.cpu.guard import must_match_training
from fewer.kernels.cpu.plain import has_own_parameters, has_plain_call
from fewer.kernels.dropout import keep_mask

__all__ = ["apply_padded", "drop", "in_rows", "linear_together"]

Module = TypeVar("Module", bound=nn.Module)


def drop(dropout: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
    """Apply a dropout; on a CPU, a plain `nn.Dropout` draws its mask faster."""
    if hidden.device.type == "cpu" and _is_plain(dropout, nn.Dropout):
        if dropout.training and 0 < dropout.p < 1:
            return hidden * keep_mask(hidden, dropout.p)
        return F.dropout(hidden, dropout.p, dropout.training)
    return dropout(hidden)


def linear_together(hidden: Tensor, *modules: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
    """Apply linear maps to the same states, as one product where all are plain.

    The states are then cast and read once, and receive one gradient, not one per map.
    """
    plain = [
        module
        for module in modules
        if (_is_plain(module, nn.Linear) or _is_plain(module, BatchInvariantLinear))
        and module.bias is not None
    ]
    if len(plain) < len(modules):
        return tuple(in_rows(module, hidden) for module in modules)
    weight = torch.cat([module.weight for module in plain])
    bias = torch.cat([module.bias for module in plain])
    outputs = apply_padded(lambda rows: F.linear(rows, weight, bias), hidden)
    return torch.split(outputs, [module.out_features for module in plain], dim=-1)


def apply_padded(apply: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
    """Apply a row-wise function; in bf16 on a CPU, pad to one of a few numbers of rows.

    oneDNN compiles a product for each new size, which takes longer than a product of a thousand
    rows, and almost every packed batch has another size.
    """
    device = hidden.device.type
    is_autocast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if is_autocast else hidden.dtype
    rows = hidden.shape[0]
    step = 1 << max(5, rows.bit_length() - 5)  # at most a sixteenth more
    if device != "cpu" or dtype != torch.bfloat16 or not rows % step:
        return apply(hidden)
    return apply(F.pad(hidden.to(dtype), (0, 0, 0, -rows % step)))[:rows]


def in_rows(apply: Callable[[Tensor], Tensor], hidden: Tensor, *inside: object) -> Tensor:
    """Apply a row-wise function; in training, pad as `apply_padded` does.

    `inside` lists the modules that `apply` calls, if it is no module. Modules with hooks see no
    padding.
    """
    modules = [module for module in inside or (apply,) if isinstance(module, nn.Module)]
    pads = must_match_training(*modules) and all(map(has_plain_call, modules))
    return apply_padded(apply, hidden) if pads else apply(hidden)


def _is_plain(module: object, kind: type[Module]) -> TypeGuard[Module]:
    return type(module) is kind and has_plain_call(module) and has_own_parameters(module)
