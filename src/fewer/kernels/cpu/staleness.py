"""Detect that a model was edited after its weights were packed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from operator import attrgetter, is_
from typing import Any

from torch import Tensor, nn

from fewer.kernels.cpu.library import make_sampler
from fewer.kernels.cpu.plain import changed_forwards

__all__ = ["Fingerprint", "TensorVersions"]


_VERSION, _TRAINING, _EPS = map(attrgetter, ("_version", "training", "eps"))
_SAME_IN_TRAINING = (nn.Linear, nn.LayerNorm, nn.Embedding)  # new modules are in training mode


class TensorVersions:
    """Tensors at the time they were packed: it detects that one has moved, and in-place edits.

    Edits through `.data`, which torch does not count, it detects by a few numbers of each tensor.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        # torch counts no edits of tensors made in inference mode
        self._counted = [tensor for tensor in tensors if not tensor.is_inference()]
        self._versions = [tensor._version for tensor in self._counted]
        self._plain = [tensor for tensor in tensors if _has_address(tensor)]
        self._addresses = [tensor.data_ptr() for tensor in self._plain]
        readable = [tensor for tensor in self._plain if tensor.device.type == "cpu"]
        self._sample = make_sampler([tensor for tensor in readable if tensor.is_contiguous()])
        self._sampled = self._sample()

    def match(self) -> bool:
        """Return whether the tensors are unchanged."""
        # no generators: this runs for each tensor in each pass
        return (
            [*map(Tensor.data_ptr, self._plain)] == self._addresses
            and [*map(_VERSION, self._counted)] == self._versions
            and self._sample() == self._sampled
        )


class Fingerprint:
    """The children, tensors, numbers and hooks of modules at the time they were packed.

    It detects a new or replaced module, a new or replaced parameter, edits of tensors, and another
    `eps` of a norm.
    """

    def __init__(self, *modules: nn.Module) -> None:
        self._modules = modules
        self._mode_dependent = [
            module for module in modules if not isinstance(module, _SAME_IN_TRAINING)
        ]
        self._members: list[dict[str, Any]] = [
            entries
            for module in modules
            for entries in (module._modules, module._parameters)
            if entries
        ]
        self._parts = list(chain.from_iterable(map(dict.values, self._members)))  # kept alive
        self._names = self._list_names()
        self._versions = TensorVersions([part for part in self._parts if isinstance(part, Tensor)])
        self._changed = changed_forwards(modules)
        self._norms = [module for module in modules if hasattr(module, "eps")]
        self._eps = [*map(_EPS, self._norms)]

    @property
    def has_changed_forward(self) -> bool:
        """Whether a call of a module did more than its class, at the time."""
        return any(self._changed)

    @property
    def is_training(self) -> bool:
        """Whether a module whose output depends on training mode is in it."""
        return any(map(_TRAINING, self._mode_dependent))

    def matches(self) -> bool:
        """Return whether the modules are unchanged."""
        # no generators: this runs for each module in each pass
        return (
            self._list_names() == self._names
            and all(map(is_, chain.from_iterable(map(dict.values, self._members)), self._parts))
            and changed_forwards(self._modules) == self._changed
            and [*map(_EPS, self._norms)] == self._eps
            and self._versions.match()
        )

    def _list_names(self) -> tuple[list[int], list[str]]:
        """Return how many children and parameters each module has, and the names of all."""
        return [*map(len, self._members)], [*chain.from_iterable(self._members)]


def _has_address(tensor: Tensor) -> bool:
    """Return whether a tensor lies in the memory of a device."""
    is_plain = type(tensor.data) is Tensor and tensor.device.type != "meta"
    return is_plain and tensor.data_ptr() != 0
