"""Eval mode for one call: a view of a model whose mode no other thread changes.

`model.eval()` and `model.train()` write to modules that all threads share: a thread that restores
training mode switches dropout on for a thread that is still predicting.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any, TypeVar

from torch import nn

__all__ = ["eval_view"]

Module = TypeVar("Module", bound=nn.Module)


def eval_view(model: Module) -> Module:
    """Return a model in eval mode that shares all parameters, buffers and hooks with `model`.

    Modules in eval mode are shared too; a model that is fully in eval mode is its own view. Raises
    `ValueError` for a module in training mode whose patched `forward` is not bound to a module.
    """
    if not isinstance(model, nn.Module):
        return model
    views: dict[int, nn.Module] = {}
    _view(model, views, "")
    view: Any = views[id(model)]
    return view  # type: ignore[no-any-return]


def _view(module: nn.Module, views: dict[int, nn.Module], name: str) -> nn.Module:
    """Make the views of a module and all its children, once each; return the module's view."""
    if id(module) in views:
        return views[id(module)]
    children = {
        key: child if child is None else _view(child, views, f"{name}.{key}".lstrip("."))
        for key, child in module._modules.items()
    }
    view = module
    if module.training or any(children[key] is not child for key, child in module._modules.items()):
        view = module.__class__.__new__(module.__class__)
        view.__dict__.update(module.__dict__)
        view.__dict__.update(_modules=children, training=False)
        for key, value in module.__dict__.items():
            if isinstance(value, MethodType) and value.__self__ is module:
                view.__dict__[key] = MethodType(value.__func__, view)
        if "forward" in module.__dict__:
            view.__dict__["forward"] = _bind_to_view(view.__dict__["forward"], module, view, name)
    views[id(module)] = view
    return view


def _bind_to_view(
    forward: Callable[..., Any], module: nn.Module, view: nn.Module, name: str
) -> Callable[..., Any]:
    """Bind a patched `forward` to the view instead of the module."""
    if isinstance(forward, MethodType) and forward.__self__ is view:
        return forward
    if isinstance(forward, partial) and any(arg is module for arg in forward.args):
        args = (view if arg is module else arg for arg in forward.args)
        return partial(forward.func, *args, **forward.keywords)
    raise ValueError(
        f"{name or 'the model'} ({type(module).__name__}) must be in eval mode to predict, because "
        "its forward was patched by a function that holds the module itself; got training mode. "
        "Call model.eval() first."
    )
