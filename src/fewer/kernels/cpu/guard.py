"""What a pass is run for."""

from __future__ import annotations

import torch
from torch import nn
from torch.autograd import forward_ad

__all__ = ["as_in_training", "only_numbers_matter"]


def only_numbers_matter() -> bool:
    """Tell whether nothing watches the operations that lead to the numbers.

    Gradients, `torch.compile` and tracing do, and forward-mode derivatives, `torch.func`, and modes
    that see each operation (FLOP counters, `make_fx`). The compiled kernels are invisible to them.
    """
    return not (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
    )


def as_in_training(*modules: object) -> bool:
    """Tell whether to compute as a pass with gradients does, to the last bit.

    So also without gradients where a module is in training mode: gradient caching runs such a pass
    again, with gradients.
    """
    return torch.is_grad_enabled() or any(
        isinstance(module, nn.Module) and module.training for module in modules
    )
