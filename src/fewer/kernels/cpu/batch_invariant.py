"""Batch-invariant linear maps for the modules outside the layers (pooler, heads).

torch multiplies one row by other code than many rows, so the last bits of an output depend on its
batch. The class of these modules is swapped for one that computes every row alike, and swapped
back. Maps of token states inside a policy follow the precision of the layers.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.kernels.cpu.guard import is_pure_inference
from fewer.kernels.cpu.library import Isa, best_isa
from fewer.kernels.cpu.ops import Weight, linear
from fewer.kernels.cpu.plain import has_own_parameters, has_plain_call, is_plain_tensor
from fewer.kernels.cpu.staleness import TensorVersions

__all__ = [
    "BatchInvariantLinear",
    "ResidualLinear",
    "follow_layers",
    "prepacked_weight",
    "swap_back",
    "swap_in",
]


class BatchInvariantLinear(nn.Linear):
    """An `nn.Linear` whose fp32 inference on a CPU is batch-invariant."""

    def forward(self, input: Tensor) -> Tensor:
        """Multiply; with gradients, in training, or in another dtype, as `nn.Linear` does."""
        isa = best_isa(torch.float32)
        if isa is None or not _supports(self, input):
            return nn.Linear.forward(self, input)  # no `super`: see `swap_back`
        rows = input.reshape(-1, self.in_features)
        return linear(rows, _prepack_weight(self, isa)).view(*input.shape[:-1], self.out_features)

    def __getstate__(self) -> dict[str, Any]:
        """Drop the prepacked weight: it points into the memory of this process."""
        return _without_prepacked(self)


class ResidualLinear(nn.Linear):
    """A state and a linear map of it, h + W h + b, which is the state itself at first.

    It is computed in fp32, and in the precision of the layers of an optimized model, where the
    product alone is rounded. It is not trained.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, width)
        self.requires_grad_(False)
        self._isa: Isa | None = None

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Map each state to itself."""
        self.weight.zero_()
        self.bias.zero_()

    @torch.no_grad()
    def set_map(self, weight: Float[Tensor, "D D"], bias: Float[Tensor, "D"]) -> None:
        """Add this map of a state from now on."""
        self.weight.copy_(weight)
        self.bias.copy_(bias)

    def set_isa(self, isa: Isa | None) -> None:
        """Follow the layers from now on: their kernels, or plain torch."""
        self._isa = isa
        self.__dict__.pop("_prepacked", None)

    def forward(self, input: Float[Tensor, "T D"]) -> Float[Tensor, "T D"]:
        """Add the product to the states; in their dtype."""
        isa = self._isa
        if isa is None or not _supports(self, input):
            states = input.float()
            change = nn.functional.linear(states, self.weight.float(), self.bias.float())
            return (states + change).to(input.dtype)
        return linear(input, _prepack_weight(self, isa), residual=input)

    def __getstate__(self) -> dict[str, Any]:
        """Drop the prepacked weight: it points into the memory of this process."""
        return _without_prepacked(self)


def _without_prepacked(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name != "_prepacked"}


def prepacked_weight(module: nn.Module) -> Weight | None:
    """Return the weight by which a call of a map in fp32 is computed.

    `None` where a call does more than that, or is computed by plain torch.
    """
    isa = best_isa(torch.float32)
    if isa is None or type(module) is not BatchInvariantLinear:
        return None
    return _prepack_weight(module, isa) if has_plain_call(module) and _is_ready(module) else None


def _supports(module: nn.Linear, input: Tensor) -> bool:
    return (
        _is_ready(module)
        and input.dtype is torch.float32
        and input.device.type == "cpu"
        and input.shape[-1:] == (module.in_features,)
    )


def _is_ready(module: nn.Linear) -> bool:
    return (
        not module.training  # gradient caching repeats a pass with gradients, bit by bit
        and is_pure_inference()
        and has_own_parameters(module)
        and module.weight.dtype is torch.float32
        and module.weight.device.type == "cpu"
        and module.weight.shape[1:] == (module.in_features,)
        and not torch.is_autocast_enabled("cpu")
    )


def _prepack_weight(module: nn.Linear, isa: Isa) -> Weight:
    """Return the cached prepacked weight, prepacked again if the module was edited."""
    tensors = [tensor for tensor in module._parameters.values() if tensor is not None]
    cached: _Prepacked | None = module.__dict__.get("_prepacked")
    if cached is None or not cached.is_of(tensors):
        versions = TensorVersions(tensors)  # before the weight is read
        weight = Weight.from_modules([module], isa)
        cached = module.__dict__["_prepacked"] = _Prepacked(tensors, versions, weight)
        if type(module) is nn.Linear:  # another thread swapped it back
            module.__dict__.pop("_prepacked", None)
    return cached.weight


@dataclass(frozen=True)
class _Prepacked:
    tensors: Sequence[Tensor]
    versions: TensorVersions
    weight: Weight

    def is_of(self, tensors: Sequence[Tensor]) -> bool:
        """Return whether these are the same tensors, unchanged; the caller runs the hooks."""
        is_same = len(tensors) == len(self.tensors) and all(map(is_, tensors, self.tensors))
        return is_same and self.versions.match()


def follow_layers(policy: nn.Module, isa: Isa | None, besides: Container[int] = ()) -> None:
    """Let a policy's maps of states follow the layers, but for modules with an id in `besides`."""
    for module in policy.modules():
        if isinstance(module, ResidualLinear) and id(module) not in besides:
            module.set_isa(isa)


def swap_in(model: nn.Module) -> None:
    """Make every plain `nn.Linear` of a model batch-invariant, in place.

    Those of the layers too: they are not called while the prepacked layers are.
    """
    for module in model.modules():
        if type(module) is nn.Linear and is_plain_tensor(module.weight):
            module.__class__ = BatchInvariantLinear


def swap_back(model: nn.Module) -> None:
    """Undo `swap_in`, also while another thread is inside a `forward`."""
    for module in model.modules():
        if type(module) is BatchInvariantLinear:
            module.__class__ = nn.Linear  # type: ignore[assignment]  # undoes swap_in
            module.__dict__.pop("_prepacked", None)
