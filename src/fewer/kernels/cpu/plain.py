"""Whether a module may be run by its tensors, without a call of the module itself.

A call of a module does more than its class says where the user put something on it: hooks, a
replaced `forward`, tensors that are computed or of a class of their own. The rule is only here.
"""

from __future__ import annotations

import torch
import torch.nn.modules.module as torch_module
from torch import Tensor, nn

__all__ = [
    "changes_forward",
    "has_global_hooks",
    "has_own_tensors",
    "is_plain_tensor",
    "runs_plainly",
]

_TENSORS = ("weight", "bias")  # what linear maps, LayerNorms and embeddings compute with
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def runs_plainly(module: object) -> bool:
    """Tell whether calling a module does what the `forward` of its class does, and nothing more.

    False with a forward or backward hook on the module or on all modules, and with a replaced
    `forward`. Class, tensors and children are not looked at.
    """
    return isinstance(module, nn.Module) and not (
        changes_forward(module)
        or module._backward_hooks
        or module._backward_pre_hooks
        or has_global_hooks()
    )


def changes_forward(module: nn.Module) -> bool:
    """Tell whether this very module has forward hooks or a replaced `forward`.

    In inference that is all there can be on it: backward hooks are never called then.
    """
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or "forward" in module.__dict__
        or "_call_impl" in module.__dict__
    )


def has_global_hooks() -> bool:
    """Tell whether hooks on all modules are registered (`register_module_forward_hook`)."""
    return bool(
        torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
    )


def has_own_tensors(module: nn.Module) -> bool:
    """Tell whether weight and bias are parameters of the module, of torch's own tensor class.

    Parametrized, pruned and weight-normed modules compute them at each call; tensors of another
    class (quantised, distributed) may answer to operations in their own way.
    """
    parameters = module._parameters
    computed = any(
        name in module.__dict__ or name in module._buffers or hasattr(type(module), name)
        for name in _TENSORS
        if name not in parameters
    )
    tensors = (parameters[name] for name in _TENSORS if name in parameters)
    return not computed and all(one is None or _is_torchs_own(one) for one in tensors)


def is_plain_tensor(parameter: Tensor) -> bool:
    """Tell whether a parameter holds floats on a CPU, and is not a quantised tensor in disguise.

    Numbers of 64 bits would lose some.
    """
    return (
        _is_torchs_own(parameter) and parameter.dtype in _FLOATS and parameter.device.type == "cpu"
    )


def _is_torchs_own(tensor: Tensor) -> bool:
    return type(tensor) in (nn.Parameter, Tensor)
