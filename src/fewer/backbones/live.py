"""Read the live model: what its modules say, not what its config said when they were made.

The packed loop calls the modules inside a layer (linear maps, norms, dropouts) and never the layer
itself. Whatever hangs on a module that is passed over would be lost in silence, so it is refused.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

__all__ = ["dropout_probability", "embedding_rows", "refuse_extras"]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_OWNER = "transformers."  # whose hooks (they record outputs on request) and classes are known


def refuse_extras(encoder: nn.Module, *modules: nn.Module) -> None:
    """Raise `ValueError` for a module that is passed over, but does more than transformers' own.

    That is: hooks, a patched `forward`, or a class with a `forward` from elsewhere.
    """
    for module in modules:
        extra = _extra(module)
        if extra is not None:
            name = next((name for name, part in encoder.named_modules() if part is module), "?")
            raise ValueError(
                f"{name} ({type(module).__name__}) must be as transformers made it, because the "
                f"packed encoder calls the modules inside it and not it; got {extra}. Move that to "
                "the encoder or to a linear map, or do without fewer.attach."
            )


def _extra(module: nn.Module) -> str | None:
    state = module.__dict__
    for name in _HOOKS:
        for hook in state[name].values():
            if not _is_known(hook):
                return f"a hook ({getattr(hook, '__qualname__', type(hook).__name__)})"
    if "forward" in state:
        return "a patched forward"
    kind = type(module)
    if not kind.forward.__module__.startswith((_OWNER, "torch.")):
        return f"a forward of {kind.__module__}.{kind.__qualname__}"
    return None


def _is_known(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith(_OWNER)


def dropout_probability(encoder: nn.Module, module: nn.Module) -> float:
    """Return the probability of a dropout that is read but not called; 0 in eval mode.

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


def embedding_rows(table: Any, otherwise: int) -> int:
    """Return how many ids an embedding has; `otherwise` where a wrapper does not say."""
    weight = getattr(table, "weight", None)
    return int(weight.shape[0]) if isinstance(weight, Tensor) else otherwise
