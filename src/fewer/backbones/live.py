"""Read settings from the modules of a model, not from its config, which may have changed since.

The packed encoder calls the modules inside a layer (linear maps, norms, dropouts) and never the
layer itself. Hooks and patches on a module that is not called would be ignored in silence, so they
are refused.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fewer.kernels.cpu.plain import backward_hooks, forward_hooks, has_replaced_forward

__all__ = ["dropout_probability", "embedding_rows", "own_modules", "refuse_extras"]

_LIBRARY = "transformers."  # its hooks, which record outputs on request, and its classes are known


def own_modules(encoder: nn.Module) -> list[nn.Module]:
    """List the modules of an encoder without those that `attach` added."""
    attachment = getattr(encoder, "fewer", None)
    skipped = set(attachment.modules()) if isinstance(attachment, nn.Module) else set()
    return [module for module in encoder.modules() if module not in skipped]


def refuse_extras(encoder: nn.Module, *modules: nn.Module) -> None:
    """Raise `ValueError` for modules that are not called but do more than those of transformers.

    They have hooks, a patched `forward`, or a class with a `forward` of another library.
    """
    for module in modules:
        extra = _describe_extra(module)
        if extra is not None:
            name = next((name for name, part in encoder.named_modules() if part is module), "?")
            raise ValueError(
                f"{name} ({type(module).__name__}) must be as transformers made it, because the "
                f"packed encoder calls the modules inside it and not it; got {extra}. Move that to "
                "the encoder or to a linear map, or do without fewer.attach."
            )


def _describe_extra(module: nn.Module) -> str | None:
    for hooks in (*forward_hooks(module), *backward_hooks(module)):
        for hook in hooks.values():
            if not _is_known(hook):
                return f"a hook ({getattr(hook, '__qualname__', type(hook).__name__)})"
    if has_replaced_forward(module):
        return "a patched forward"
    kind = type(module)
    if not kind.forward.__module__.startswith((_LIBRARY, "torch.")):
        return f"a forward of {kind.__module__}.{kind.__qualname__}"
    return None


def _is_known(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith(_LIBRARY)


def dropout_probability(encoder: nn.Module, module: nn.Module) -> float:
    """Return the probability of a dropout that is not called; 0 in eval mode.

    Raises `ValueError` for a module that is neither `nn.Dropout` nor `nn.Identity`.
    """
    refuse_extras(encoder, module)
    if isinstance(module, nn.Identity):
        return 0.0
    if type(module) is not nn.Dropout:
        raise ValueError(
            f"the dropout of attention probabilities must be an nn.Dropout; got a "
            f"{type(module).__name__}. Put an nn.Dropout there, or do without fewer.attach."
        )
    return module.p if module.training else 0.0


def embedding_rows(table: Any, default: int) -> int:
    """Return the number of rows of an embedding; `default` for a wrapper without a weight."""
    weight = getattr(table, "weight", None)
    return int(weight.shape[0]) if isinstance(weight, Tensor) else default
