"""Results of a calibration in files, so that one that was interrupted goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

__all__ = ["Journal"]


class Journal:
    """What was computed, one file each, in the order in which it was asked for.

    A calibration asks for the same in the same order each time, so the n-th result of one that was
    interrupted is the n-th of the one that goes on. Without a folder nothing is kept.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._count = 0

    def keep(self, compute: Callable[[], Any]) -> Any:
        """Return the next result: read, if it is there; else computed, and written.

        It is of tensors, numbers, words, and lists and dicts of them.
        """
        if self.folder is None:
            return compute()
        path = self.folder / f"{self._count:05}.pt"
        self._count += 1
        if path.exists():
            return torch.load(path, weights_only=True)
        result, part = compute(), path.with_suffix(".part")
        torch.save(result, part)
        part.replace(path)  # atomic
        return result
