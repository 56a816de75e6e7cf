"""What a comparison has measured so far, in files that a kill leaves whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewer._files.disk import read_json, write_json

__all__ = ["Cells", "Key", "Results"]


@dataclass(frozen=True)
class Key:
    """A cell of a comparison: an arm at a target, trained with a seed."""

    arm: str
    target: float | None
    seed: int

    @property
    def name(self) -> str:
        """The name of the cell's files."""
        at = "" if self.target is None else f"-{self.target:g}"
        return f"{self.arm}{at}-{self.seed}"


@dataclass(frozen=True)
class Results:
    """What a model made of the test rows."""

    answers: Any  # input of the scorer
    tokens: Tensor  # (texts)
    flops: Tensor  # (texts)


class Cells:
    """The cells of a comparison: a JSON file and the results on the test rows for each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def __contains__(self, key: Key) -> bool:
        return self._measured(key).exists()

    def store(self, key: Key, cell: dict[str, Any], results: Results) -> None:
        """Write a cell; it counts as measured once both files are there."""
        path = self._results(key)
        part = path.with_suffix(".part")
        torch.save(vars(results), part)
        part.replace(path)  # atomic
        write_json(cell, self._measured(key))

    def replace(self, key: Key, cell: dict[str, Any]) -> None:
        """Write a cell again, with more in it; the results stay."""
        write_json(cell, self._measured(key))

    def read(self, key: Key) -> dict[str, Any]:
        """Read what was measured."""
        return read_json(self._measured(key))

    def results(self, key: Key) -> Results:
        """Read the results on the test rows."""
        return Results(**torch.load(self._results(key), weights_only=True))

    def _measured(self, key: Key) -> Path:
        return self.folder / f"{key.name}.json"

    def _results(self, key: Key) -> Path:
        return self.folder / f"{key.name}.pt"
