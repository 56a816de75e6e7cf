"""Linear maps outside the layers (pooler, heads), row by row.

torch multiplies one row by other code than many, so the last bits of an answer depend on its batch.
These maps are swapped for a subclass that multiplies every row alike, and swapped back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fewer.kernels.cpu.guard import only_numbers_matter
from fewer.kernels.cpu.library import Isa, best
from fewer.kernels.cpu.ops import Weight, linear
from fewer.kernels.cpu.plain import has_own_tensors, is_plain_tensor
from fewer.kernels.cpu.staleness import Fingerprint

__all__ = ["BatchInvariantLinear", "swap_back", "swap_in"]


class BatchInvariantLinear(nn.Linear):
    """An `nn.Linear` whose fp32 inference on a CPU treats every row alike."""

    def forward(self, input: Tensor) -> Tensor:
        """Multiply; with gradients, in training, or in another dtype, as `nn.Linear` does."""
        isa = best(torch.float32)
        if isa is None or not _fits(self, input):
            return nn.Linear.forward(self, input)  # no `super`: see `swap_back`
        rows = input.reshape(-1, self.in_features)
        return linear(rows, _weight(self, isa)).view(*input.shape[:-1], self.out_features)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the packed weight behind: it points into this process's memory."""
        state = dict(self.__dict__)
        state.pop("_rowwise", None)
        return state


def _fits(module: nn.Linear, input: Tensor) -> bool:
    return (
        not module.training  # gradient caching runs a pass again, with gradients: the same bits
        and only_numbers_matter()
        and has_own_tensors(module)
        and input.dtype is module.weight.dtype is torch.float32
        and input.device.type == module.weight.device.type == "cpu"
        and input.shape[-1:] == (module.in_features,) == module.weight.shape[1:]
        and not torch.is_autocast_enabled("cpu")
    )


def _weight(module: nn.Linear, isa: Isa) -> Weight:
    held: tuple[Fingerprint, Weight] | None = module.__dict__.get("_rowwise")
    if held is None or not held[0].holds():
        held = module.__dict__["_rowwise"] = Fingerprint(module), Weight.of([module], isa)
        if not isinstance(module, BatchInvariantLinear):  # swapped back meanwhile
            module.__dict__.pop("_rowwise", None)
    return held[1]


def swap_in(model: nn.Module) -> None:
    """Let every plain `nn.Linear` of a model treat rows alike, in place.

    Those of the layers too: they are not called while the packed ones are.
    """
    for module in model.modules():
        if type(module) is nn.Linear and is_plain_tensor(module.weight):
            module.__class__ = BatchInvariantLinear


def swap_back(model: nn.Module) -> None:
    """Undo `swap_in`, also while another thread is inside a `forward`."""
    for module in model.modules():
        if type(module) is BatchInvariantLinear:
            module.__class__ = nn.Linear  # type: ignore[assignment]  # undoes swap_in
            module.__dict__.pop("_rowwise", None)
