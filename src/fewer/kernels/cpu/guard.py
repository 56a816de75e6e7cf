"""Whether a pass may use the compiled kernels, and whether it must match training."""

from __future__ import annotations

import torch
from torch import nn
from torch.autograd import forward_ad

__all__ = ["is_observed", "is_pure_inference", "must_match_training"]


def is_pure_inference() -> bool:
    """Return whether no part of torch observes the operations of a pass, gradients included."""
    return not (torch.is_grad_enabled() or is_observed())


def is_observed() -> bool:
    """Return whether a part of torch other than gradients observes the operations of a pass.

    `torch.compile`, tracing, forward-mode derivatives, `torch.func` and dispatch modes (FLOP
    counters, `make_fx`) observe them, and cannot see the compiled kernels.
    """
    return bool(
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
    )


def must_match_training(*modules: object) -> bool:
    """Return whether a pass must be bit-equal to a pass with gradients.

    That includes passes without gradients where a module is in training mode: gradient caching
    repeats such a pass with gradients.
    """
    return torch.is_grad_enabled() or any(
        isinstance(module, nn.Module) and module.training for module in modules
    )
