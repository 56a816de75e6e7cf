"""What may be packed: modules that do what their class says, activations known by their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewer.engine.rowwise import RowwiseLinear, is_plain

__all__ = ["Unpackable", "activation_name", "linear_map", "norm_of"]

_KNOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


class Unpackable(Exception):
    """A part of a model must be run as it is; the message says which and why."""


def linear_map(module: Any) -> nn.Linear:
    """Return a module that is a plain linear map.

    Raises `Unpackable` for adapters, quantised maps, and maps with hooks, whose call does more.
    """
    if type(module) not in (nn.Linear, RowwiseLinear):
        raise Unpackable(
            f"a {type(module).__module__}.{type(module).__qualname__} stands where a linear map "
            "does (merge adapters to have it packed)"
        )
    plain: nn.Linear = _plain(module)
    return plain


def norm_of(module: Any) -> nn.LayerNorm:
    """Return a module that is a plain LayerNorm with weights. Raises `Unpackable`."""
    if type(module) is not nn.LayerNorm or module.weight is None:
        raise Unpackable(f"a {type(module).__qualname__} stands where a LayerNorm does")
    plain: nn.LayerNorm = _plain(module)
    return plain


def _plain(module: Any) -> Any:
    if module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__:
        raise Unpackable(f"a {type(module).__qualname__} has hooks, which would not be called")
    for name, parameter in module.named_parameters(recurse=False):
        if not is_plain(parameter):
            raise Unpackable(
                f"a {type(module).__qualname__} has a {name} of {type(parameter.data).__name__}, "
                f"{parameter.dtype} on {parameter.device}"
            )
    return module


def activation_name(activation: Callable[[Tensor], Tensor]) -> str:
    """Find out by its values which activation this is. Raises `Unpackable` for an unknown one."""
    x = torch.linspace(-8, 8, 257)
    with torch.no_grad():
        y = activation(x)
    for name, known in _KNOWN.items():
        if torch.allclose(y, known(x), rtol=0, atol=1e-6):
            return name
    raise Unpackable(f"the activation {activation!r} has no kernel")
