"""What a pass is run for."""

from __future__ import annotations

import torch

__all__ = ["only_numbers_matter"]


def only_numbers_matter() -> bool:
    """Tell whether nothing watches the operations that lead to the numbers.

    Gradients, `torch.compile` and tracing do; the compiled kernels are invisible to them.
    """
    return not (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
    )
