"""Which modules can be packed: plain modules, and activations recognised by their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewer.kernels.cpu.batch_invariant import BatchInvariantLinear
from fewer.kernels.cpu.ops import Norm
from fewer.kernels.cpu.plain import has_changed_forward, has_own_parameters, is_plain_tensor

__all__ = [
    "NotPrepackable",
    "activation_name",
    "check_finite",
    "kernel_norm",
    "norm_of",
    "plain_linear",
    "table_of",
]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


class NotPrepackable(Exception):
    """A part of a model that cannot be packed; the message names it and the reason."""


def plain_linear(module: Any) -> nn.Linear:
    """Return a module if it is a plain linear map.

    Raises `NotPrepackable` for adapters, quantised layers and modules with hooks.
    """
    if type(module) not in (nn.Linear, BatchInvariantLinear):
        raise NotPrepackable(
            f"a {type(module).__module__}.{type(module).__qualname__} stands where a linear map "
            "does (merge adapters to have it packed)"
        )
    linear: nn.Linear = _check_plain(module)
    return linear


def check_finite(encoder: nn.Module) -> None:
    """Raise `ValueError` for NaN or infinity in the weight of a linear map: no scale fits it."""
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Linear) and not bool(module.weight.isfinite().all()):
            raise ValueError(
                f"{name}.weight must be finite for precision='int8'; got NaN or infinity. Load "
                "an intact checkpoint, or use precision='fp32'."
            )


def norm_of(module: Any) -> nn.LayerNorm:
    """Return a module if it is a plain LayerNorm with weights. Raises `NotPrepackable`."""
    if type(module) is not nn.LayerNorm or module.weight is None:
        raise NotPrepackable(f"a {type(module).__qualname__} stands where a LayerNorm does")
    norm: nn.LayerNorm = _check_plain(module)
    return norm


def kernel_norm(module: Any) -> Norm:
    """Return a plain LayerNorm or RMS norm for the kernels; `NotPrepackable` for another norm."""
    if not hasattr(module, "variance_epsilon"):
        return Norm.from_module(norm_of(module))
    weight = _check_plain(module).weight.detach().float()
    eps = float(module.variance_epsilon)
    with torch.no_grad():  # other norms have the same attributes, and scale by 1 + weight
        x = torch.linspace(-3, 3, 2 * len(weight)).view(2, -1)
        expected = module(x.to(module.weight.dtype)).float()
    error = (F.rms_norm(x, weight.shape, weight, eps) - expected).abs().max()
    if not error <= (1e-5 if module.weight.dtype.itemsize >= 4 else 2e-2) * expected.abs().max():
        raise NotPrepackable(f"a {type(module).__qualname__} is no RMS norm")
    return Norm.rms(weight, eps)


def table_of(module: Any, rows: int) -> nn.Embedding:
    """Return a module if it is a plain embedding of at least `rows`. Raises `NotPrepackable`."""
    if type(module) is not nn.Embedding or module.max_norm is not None:
        raise NotPrepackable(f"a {type(module).__qualname__} stands where an embedding does")
    if module.weight.shape[0] < rows:
        raise NotPrepackable(
            f"an embedding has {module.weight.shape[0]} rows, the model has {rows} ids"
        )
    embedding: nn.Embedding = _check_plain(module)
    return embedding


def _check_plain(module: Any) -> Any:
    _refuse_hooks(module)
    if not has_own_parameters(module):
        raise NotPrepackable(
            f"the weight or bias of a {type(module).__qualname__} is computed, or of a subclass "
            "of Tensor"
        )
    for name, parameter in module.named_parameters(recurse=False):
        if not is_plain_tensor(parameter):
            raise NotPrepackable(
                f"a {type(module).__qualname__} has a {name} of {type(parameter.data).__name__}, "
                f"{parameter.dtype} on {parameter.device}"
            )
    return module


def _refuse_hooks(module: nn.Module) -> None:
    if has_changed_forward(module):
        raise NotPrepackable(f"a {type(module).__qualname__} has hooks, which would not be called")


def activation_name(activation: Callable[[Tensor], Tensor]) -> str:
    """Recognise an activation by its values. Raises `NotPrepackable` for an unknown one."""
    if isinstance(activation, nn.Module):
        _refuse_hooks(activation)
    large = torch.tensor([12.0, 100.0, 1e4])  # some activations clip at 10, and equal GELU below
    x = torch.cat((torch.linspace(-8, 8, 257), large, -large))
    with torch.no_grad():
        y = activation(x)
    for name, function in _ACTIVATIONS.items():
        if torch.allclose(y, function(x), rtol=0, atol=1e-6):
            return name
    raise NotPrepackable(f"the activation {activation!r} has no kernel")
