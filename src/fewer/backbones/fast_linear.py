"""Quicker ways to run a model's own modules in training, with the same result.

Plain modules - the very class of torch, or the one that takes its place in an optimized model, with
nothing put on it - may be run by their tensors; adapters and quantised layers are called as they
are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeGuard, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewer.kernels.cpu.batch_invariant import BatchInvariantLinear
from fewer.kernels.cpu.guard import as_in_training
from fewer.kernels.cpu.plain import has_own_tensors, runs_plainly
from fewer.kernels.dropout import keep_mask

__all__ = ["drop", "in_rows", "linear_together", "of_round_size"]

Module = TypeVar("Module", bound=nn.Module)


def drop(dropout: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
    """Drop values as the module says; on a CPU, a plain `nn.Dropout` draws quicker."""
    if hidden.device.type == "cpu" and _plain(dropout, nn.Dropout):
        if dropout.training and 0 < dropout.p < 1:
            return hidden * keep_mask(hidden, dropout.p)
        return F.dropout(hidden, dropout.p, dropout.training)
    return dropout(hidden)


def linear_together(hidden: Tensor, *maps: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
    """Apply linear maps to the same states, as one product where all are plain.

    The states are then cast, read and given their gradient once, not once a map.
    """
    plain = [
        one
        for one in maps
        if (_plain(one, nn.Linear) or _plain(one, BatchInvariantLinear)) and one.bias is not None
    ]
    if len(plain) < len(maps):
        return tuple(in_rows(one, hidden) for one in maps)
    weight = torch.cat([one.weight for one in plain])
    bias = torch.cat([one.bias for one in plain])
    joined = of_round_size(lambda rows: F.linear(rows, weight, bias), hidden)
    return torch.split(joined, [one.out_features for one in plain], dim=-1)


def of_round_size(apply: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
    """Apply what treats each row for itself, in bf16 on a CPU to one of few numbers of rows.

    oneDNN compiles a product anew for each size it meets, which takes longer than a product of a
    thousand rows, and every packed batch has a size of its own.
    """
    device = hidden.device.type
    low = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if low else hidden.dtype
    rows = hidden.shape[0]
    step = 1 << max(5, rows.bit_length() - 5)  # at most a sixteenth more
    if device != "cpu" or dtype != torch.bfloat16 or not rows % step:
        return apply(hidden)
    return apply(F.pad(hidden.to(dtype), (0, 0, 0, -rows % step)))[:rows]


def in_rows(apply: Callable[[Tensor], Tensor], hidden: Tensor, *inside: object) -> Tensor:
    """Apply what treats each row for itself; in training to one of few numbers of rows.

    `inside` are the modules that `apply` calls, if it is none. Hooks on them see no row but those
    that there are.
    """
    modules = [one for one in inside or (apply,) if isinstance(one, nn.Module)]
    rounds = as_in_training(*modules) and all(map(runs_plainly, modules))
    return of_round_size(apply, hidden) if rounds else apply(hidden)


def _plain(module: object, kind: type[Module]) -> TypeGuard[Module]:
    return type(module) is kind and runs_plainly(module) and has_own_tensors(module)
