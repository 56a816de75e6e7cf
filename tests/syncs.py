"""Count what would make the host wait for a GPU: every look at the values of a tensor."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

SOURCE = str(Path(__file__).parent.parent / "src")
# Operations whose output has a size that depends on values, or that return a value.
_WAITING = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::bincount",
    "aten::_unique2",
    "aten::unique_consecutive",
    "aten::unique_dim_consecutive",
    "aten::equal",
    "aten::is_nonzero",
    "aten::isin",
}


class _Watch(TorchDispatchMode):
    def __init__(self, places: list[str]) -> None:
        super().__init__()
        self.places = places

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func._schema.name
        waits = name in _WAITING
        if name == "aten::repeat_interleave":
            waits = (kwargs or {}).get("output_size") is None
        if name in ("aten::index.Tensor", "aten::index", "aten::index_put_", "aten::index_put"):
            waits = any(isinstance(x, Tensor) and x.dtype is torch.bool for x in args[1])
        if name == "aten::lift_fresh":  # a number becomes a tensor, to be copied to the device
            waits = args[0].ndim == 0
        if waits:
            self.places.append(f"{_place()}: {name}")
        return func(*args, **(kwargs or {}))


def _place() -> str:
    """Name the innermost line of the package."""
    frames = [frame for frame in traceback.extract_stack() if frame.filename.startswith(SOURCE)]
    if not frames:
        return "elsewhere"
    return f"{frames[-1].filename.removeprefix(SOURCE + '/fewer/')}:{frames[-1].lineno}"


@contextmanager
def watch_syncs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Collect where the host would wait for a GPU."""
    places: list[str] = []
    tolist: Callable[[Tensor], Any] = Tensor.tolist

    def watched(self: Tensor) -> Any:
        places.append(f"{_place()}: tolist")
        return tolist(self)

    with monkeypatch.context() as patch, _Watch(places):
        patch.setattr(Tensor, "tolist", watched)
        yield places


def summarise(places: list[str]) -> str:
    """Count the places, for a message."""
    return "\n".join(f"{count} x {place}" for place, count in Counter(places).most_common())
