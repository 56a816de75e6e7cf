"""Notice that a model was edited after its weights were packed."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fewer.native.library import sample

__all__ = ["Stamp"]


class Stamp:
    """What modules consisted of when they were packed: which children, tensors, numbers and hooks.

    A replaced module, a replaced or moved parameter and an in-place edit are all noticed; edits
    through `.data`, which torch does not count, by a few numbers of each tensor.
    """

    def __init__(self, *modules: nn.Module) -> None:
        self._modules = modules
        self._children: list[tuple[dict[str, Any], str, Any]] = []
        self._tensors: list[tuple[dict[str, Any], str, Tensor, int, int]] = []
        for module in modules:
            children: dict[str, Any] = module._modules
            self._children += [(children, name, child) for name, child in children.items()]
            held: dict[str, Any] = module._parameters
            self._tensors += [
                (held, name, one, one.data_ptr(), _version(one))
                for name, one in held.items()
                if one is not None
            ]
        self._hooks = [_hooks(module) for module in modules]
        self._sample = sample([one for _, _, one, _, _ in self._tensors])
        self._numbers = self._sample()

    @property
    def trains(self) -> bool:
        """Whether some part is in training mode."""
        return any(module.training for module in self._modules)

    def holds(self) -> bool:
        """Tell whether all is as it was."""
        return (
            all(held.get(name) is child for held, name, child in self._children)
            and all(
                held.get(name) is one and one.data_ptr() == pointer and _version(one) == version
                for held, name, one, pointer, version in self._tensors
            )
            and [_hooks(module) for module in self._modules] == self._hooks
            and self._sample() == self._numbers
        )


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _hooks(module: nn.Module) -> int:
    return len(module._forward_hooks) + len(module._forward_pre_hooks)
