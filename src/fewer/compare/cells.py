"""What a comparison has measured so far, in files that a kill leaves whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fewer._files.disk import read_json, write_json

__all__ = ["Cells", "Key"]


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


class Cells:
    """The cells of a comparison: a JSON file and the answers to the test rows for each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def __contains__(self, key: Key) -> bool:
        return self._measured(key).exists()

    def store(self, key: Key, cell: dict[str, Any], answers: Any) -> None:
        """Write a cell; it counts as measured once both files are there."""
        path = self._answers(key)
        part = path.with_suffix(".part")
        torch.save(answers, part)
        part.replace(path)  # atomic
        write_json(cell, self._measured(key))

    def read(self, key: Key) -> dict[str, Any]:
        """Read what was measured."""
        return read_json(self._measured(key))

    def answers(self, key: Key) -> Any:
        """Read the answers to the test rows."""
        return torch.load(self._answers(key), weights_only=True)

    def _measured(self, key: Key) -> Path:
        return self.folder / f"{key.name}.json"

    def _answers(self, key: Key) -> Path:
        return self.folder / f"{key.name}.pt"
