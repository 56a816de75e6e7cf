"""Detect that a model was edited after its weights were packed."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fewer.kernels.cpu.library import make_sampler
from fewer.kernels.cpu.plain import has_changed_forward

__all__ = ["Fingerprint"]


_SAME_IN_TRAINING = (nn.Linear, nn.LayerNorm, nn.Embedding)  # new modules are in training mode


class Fingerprint:
    """The children, tensors, numbers and hooks of modules at the time they were packed.

    It detects a new or replaced module, a new, replaced or moved parameter and an in-place edit;
    edits through `.data`, which torch does not count, by a few numbers of each tensor.
    """

    def __init__(self, *modules: nn.Module) -> None:
        self._modules = modules
        self._mode_dependent = [
            module for module in modules if not isinstance(module, _SAME_IN_TRAINING)
        ]
        members: list[dict[str, Any]] = [
            entries
            for module in modules
            for entries in (module._modules, module._parameters)
            if entries
        ]
        self._sizes = [(entries, len(entries)) for entries in members]
        self._parts = [
            (entries, name, part) for entries in members for name, part in entries.items()
        ]
        tensors = [part for _, _, part in self._parts if isinstance(part, Tensor)]
        self._versions = [(tensor, _version(tensor)) for tensor in tensors]
        plain = [tensor for tensor in tensors if _has_address(tensor)]
        self._addresses = [(tensor, tensor.data_ptr()) for tensor in plain]
        readable = [tensor for tensor in plain if tensor.device.type == "cpu"]
        self._changed = [has_changed_forward(module) for module in modules]
        self._sample = make_sampler([tensor for tensor in readable if tensor.is_contiguous()])
        self._sampled = self._sample()

    @property
    def has_changed_forward(self) -> bool:
        """Whether a call of a module did more than its class, at the time."""
        return any(self._changed)

    @property
    def is_training(self) -> bool:
        """Whether a module whose output depends on training mode is in it."""
        return any(module.training for module in self._mode_dependent)

    def matches(self) -> bool:
        """Return whether the modules are unchanged."""
        return (
            all(len(entries) == size for entries, size in self._sizes)
            and all(entries.get(name) is part for entries, name, part in self._parts)
            and all(tensor.data_ptr() == address for tensor, address in self._addresses)
            and all(_version(tensor) == version for tensor, version in self._versions)
            and [has_changed_forward(module) for module in self._modules] == self._changed
            and self._sample() == self._sampled
        )


def _has_address(tensor: Tensor) -> bool:
    """Return whether a tensor lies in the memory of a device."""
    is_plain = type(tensor.data) is Tensor and tensor.device.type != "meta"
    return is_plain and tensor.data_ptr() != 0


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version
