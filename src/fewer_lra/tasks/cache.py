"""Generated rows on disk: made once, whole or not at all.

The manifest, written last, holds the rule that made the arrays and their SHA-256. A file without
one, with another rule's or with another hash is made again, so a killed run leaves no harm.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fewer_lra.tasks.arena import Rows

__all__ = ["SPLITS", "kept"]

SPLITS = ("train", "dev", "test")
_COLUMNS = ("tokens", "lengths", "labels")
_LOG = logging.getLogger("fewer")


def kept(
    folder: Path, name: str, rule: dict[str, Any], make: Callable[[], list[Rows]]
) -> list[Rows]:
    """Return the rows of the three splits that `rule` describes: from `folder`, or made and kept.

    `rule` is all that decides the rows, as JSON; `make` makes them.
    """
    mark = hashlib.sha256(json.dumps(rule, sort_keys=True).encode()).hexdigest()[:12]
    arrays, manifest = folder / f"{name}-{mark}.npz", folder / f"{name}-{mark}.json"
    if not _whole(arrays, manifest, rule):
        splits = make()
        folder.mkdir(parents=True, exist_ok=True)
        _write(arrays, splits)
        counts = {split: len(rows) for split, rows in zip(SPLITS, splits, strict=True)}
        note = {"rule": rule, "rows": counts, "sha256": _digest(arrays)}
        own = manifest.with_suffix(f".{os.getpid()}.tmp")
        own.write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
        own.replace(manifest)
        _LOG.info("kept %s", arrays)
    with np.load(arrays) as held:
        return [Rows(*(held[f"{split}_{column}"] for column in _COLUMNS)) for split in SPLITS]


def _write(path: Path, splits: list[Rows]) -> None:
    arrays: dict[str, Any] = {}
    for split, rows in zip(SPLITS, splits, strict=True):
        arrays |= {f"{split}_{name}": getattr(rows, name) for name in _COLUMNS}
    own = path.with_suffix(f".{os.getpid()}.tmp")  # others may make the same meanwhile
    with own.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
        stream.flush()
        os.fsync(stream.fileno())
    own.replace(path)


def _whole(arrays: Path, manifest: Path, rule: dict[str, Any]) -> bool:
    try:
        note = json.loads(manifest.read_text(encoding="utf-8"))
        return bool(note["rule"] == rule and note["sha256"] == _digest(arrays))
    except (OSError, ValueError, TypeError, KeyError):  # none, or broken
        return False


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            found.update(piece)
    return found.hexdigest()
