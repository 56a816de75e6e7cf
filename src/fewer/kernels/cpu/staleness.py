"""Notice that a model was edited after its weights were packed."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fewer.kernels.cpu.library import sample
from fewer.kernels.cpu.plain import changes_forward

__all__ = ["Fingerprint"]


_SAME_IN_TRAINING = (nn.Linear, nn.LayerNorm, nn.Embedding)  # a new one is in training mode


class Fingerprint:
    """What modules consisted of when they were packed: which children, tensors, numbers and hooks.

    A new or replaced module, a new, replaced or moved parameter and an in-place edit are all
    noticed; edits through `.data`, which torch does not count, by a few numbers of each tensor.
    """

    def __init__(self, *modules: nn.Module) -> None:
        self._modules = modules
        self._moody = [one for one in modules if not isinstance(one, _SAME_IN_TRAINING)]
        both: list[dict[str, Any]] = [
            held for one in modules for held in (one._modules, one._parameters) if held
        ]
        self._sizes = [(held, len(held)) for held in both]
        self._parts = [(held, name, part) for held in both for name, part in held.items()]
        tensors = [part for _, _, part in self._parts if isinstance(part, Tensor)]
        self._versions = [(one, _version(one)) for one in tensors]
        ours = [one for one in tensors if _lies_here(one)]
        self._places = [(one, one.data_ptr()) for one in ours]
        self._changed = [changes_forward(module) for module in modules]
        self._sample = sample([one for one in ours if one.is_contiguous()])
        self._numbers = self._sample()

    @property
    def trains(self) -> bool:
        """Whether some part is in training mode that answers otherwise then."""
        return any(module.training for module in self._moody)

    def holds(self) -> bool:
        """Tell whether all is as it was."""
        return (
            all(len(held) == size for held, size in self._sizes)
            and all(held.get(name) is part for held, name, part in self._parts)
            and all(one.data_ptr() == place for one, place in self._places)
            and all(_version(one) == version for one, version in self._versions)
            and [changes_forward(module) for module in self._modules] == self._changed
            and self._sample() == self._numbers
        )


def _lies_here(tensor: Tensor) -> bool:
    """Tell whether a tensor's numbers are in this process's memory, where they can be read."""
    plain = type(tensor.data) is Tensor and tensor.device.type == "cpu"
    return plain and tensor.data_ptr() != 0


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version
