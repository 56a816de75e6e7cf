"""A case is what is measured at once and gives one row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.sizes import Sizes

__all__ = ["Case", "Setting"]


@dataclass(frozen=True)
class Setting:
    """Where and how large a run is."""

    device: torch.device
    sizes: Sizes
    folder: Path  # of the results
    laws: Path  # folder of their tests

    @property
    def is_dry(self) -> bool:
        """Whether this is a dry run, with sizes that say nothing about speed."""
        return self.device.type == "cpu"


@dataclass(frozen=True)
class Case:
    """One measurement; `SECTION/...` is its name."""

    name: str
    rank: int  # cases of a lower rank are measured first
    seconds: float  # that it takes on an H100, estimated; more than that must be left to start it
    measure: Callable[[], dict[str, Any]]

    @property
    def section(self) -> str:
        """The first part of the name."""
        return self.name.partition("/")[0]
