"""Whether a module may be computed from its tensors, without calling it.

A call does more than the `forward` of the class if the module has hooks, a replaced `forward`, or
tensors that are computed or of a subclass. Every such check is in this file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain, repeat
from operator import contains, itemgetter
from typing import Any

import torch
import torch.nn.modules.module as torch_module
from torch import Tensor, nn

__all__ = [
    "backward_hooks",
    "changed_forwards",
    "forward_hooks",
    "has_changed_forward",
    "has_global_hooks",
    "has_own_parameters",
    "has_plain_call",
    "has_replaced_forward",
    "is_plain_tensor",
]

Hooks = Mapping[int, Callable[..., Any]]  # by the id of their handle

_FORWARD_HOOKS = itemgetter("_forward_pre_hooks", "_forward_hooks")  # of the state of a module
_REPLACEABLE = ("forward", "_call_impl")  # that a call runs
_TENSORS = ("weight", "bias")  # of linear maps, LayerNorms and embeddings
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def has_plain_call(module: object) -> bool:
    """Return whether a call of a module runs the `forward` of its class and nothing else.

    False with a forward or backward hook on the module or on all modules, and with a replaced
    `forward`. Class, tensors and children are not checked.
    """
    return isinstance(module, nn.Module) and not (
        has_changed_forward(module) or any(backward_hooks(module)) or has_global_hooks()
    )


def has_changed_forward(module: nn.Module) -> bool:
    """Return whether this module has forward hooks or a replaced `forward`.

    Inference never calls backward hooks, so they do not count.
    """
    return any(forward_hooks(module)) or has_replaced_forward(module)


def changed_forwards(modules: Sequence[nn.Module]) -> list[bool]:
    """Return `has_changed_forward` of each module, in a fraction of the time where none has."""
    states = [*map(vars, modules)]
    hooks = chain.from_iterable(map(_FORWARD_HOOKS, states))
    replaced = (map(contains, states, repeat(name)) for name in _REPLACEABLE)
    if any(hooks) or any(map(any, replaced)):
        return [has_changed_forward(module) for module in modules]
    return [False] * len(modules)


def forward_hooks(module: nn.Module) -> tuple[Hooks, Hooks]:
    """Return the pre-hooks and the hooks that each call of the module runs."""
    before, after = _FORWARD_HOOKS(vars(module))
    return before, after


def backward_hooks(module: nn.Module) -> tuple[Hooks, Hooks]:
    """Return the pre-hooks and the hooks that the backward pass of the module runs."""
    return module._backward_pre_hooks, module._backward_hooks


def has_replaced_forward(module: nn.Module) -> bool:
    """Return whether a method that a call runs is replaced on the module itself."""
    return any(name in module.__dict__ for name in _REPLACEABLE)


def has_global_hooks() -> bool:
    """Return whether global hooks are registered (`register_module_forward_hook`)."""
    return bool(
        torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
    )


def has_own_parameters(module: nn.Module) -> bool:
    """Return whether weight and bias are parameters of the module, of the class of torch.

    Parametrized, pruned and weight-normed modules compute them at each call; tensor subclasses
    (quantised, distributed) may override operations.
    """
    parameters = module._parameters
    computed = any(
        name in module.__dict__ or name in module._buffers or hasattr(type(module), name)
        for name in _TENSORS
        if name not in parameters
    )
    tensors = (parameters[name] for name in _TENSORS if name in parameters)
    return not computed and all(tensor is None or _is_no_subclass(tensor) for tensor in tensors)


def is_plain_tensor(parameter: Tensor) -> bool:
    """Return whether a parameter is a float tensor on a CPU and no tensor subclass.

    Packing would round float64.
    """
    return (
        _is_no_subclass(parameter) and parameter.dtype in _FLOATS and parameter.device.type == "cpu"
    )


def _is_no_subclass(tensor: Tensor) -> bool:
    return type(tensor) in (nn.Parameter, Tensor)
