"""Eval mode for one call: a view of a model, which no other thread's mode can turn.

`model.eval()` and back would write to what all threads share: one that ends gives training mode,
and its dropout, to another that still reads.
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

    Parts that are in eval mode already are shared too; the whole model, where all of it is. Raises
    `ValueError` for a part in training mode with a patched `forward` that is bound to nothing.
    """
    if not isinstance(model, nn.Module):
        return model
    views: dict[int, nn.Module] = {}
    _view(model, views, "")
    view: Any = views[id(model)]
    return view  # type: ignore[no-any-return]


def _view(module: nn.Module, views: dict[int, nn.Module], name: str) -> nn.Module:
    """Make the views of a module and all its children, once each; return the module's."""
    if id(module) in views:
        return views[id(module)]
    children = {
        key: child if child is None else _view(child, views, f"{name}.{key}".lstrip("."))
        for key, child in module._modules.items()
    }
    view = module
    if module.training or any(children[key] is not part for key, part in module._modules.items()):
        view = module.__class__.__new__(module.__class__)
        view.__dict__.update(module.__dict__)
        view.__dict__.update(_modules=children, training=False)
        for key, value in module.__dict__.items():
            if isinstance(value, MethodType) and value.__self__ is module:
                view.__dict__[key] = MethodType(value.__func__, view)
        if "forward" in module.__dict__:
            view.__dict__["forward"] = _pointed(view.__dict__["forward"], module, view, name)
    views[id(module)] = view
    return view


def _pointed(
    forward: Callable[..., Any], module: nn.Module, view: nn.Module, name: str
) -> Callable[..., Any]:
    """Point a patched `forward` at the view instead of the module."""
    if isinstance(forward, MethodType) and forward.__self__ is view:
        return forward
    if isinstance(forward, partial) and any(one is module for one in forward.args):
        args = (view if one is module else one for one in forward.args)
        return partial(forward.func, *args, **forward.keywords)
    raise ValueError(
        f"{name or 'the model'} ({type(module).__name__}) must be in eval mode to predict, because "
        "its forward was patched by a function that holds the module itself; got training mode. "
        "Call model.eval() first."
    )
