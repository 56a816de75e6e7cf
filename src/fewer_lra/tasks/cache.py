"""Cache of generated rows on disk; files are written atomically.

The manifest, written last, holds the rule that made the arrays and their SHA-256. A file without
a manifest, or with another rule or hash, is generated again, so a killed run does no harm.
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

from fewer_lra.tasks.task import Rows

__all__ = ["SPLITS", "load_or_generate"]

SPLITS = ("train", "dev", "test")
_COLUMNS = ("tokens", "lengths", "labels")
_LOG = logging.getLogger("fewer")


def load_or_generate(
    folder: Path, name: str, rule: dict[str, Any], generate: Callable[[], list[Rows]]
) -> list[Rows]:
    """Load the three splits that `rule` describes from `folder`, or generate and write them.

    `rule` holds everything that determines the rows, as JSON; `generate` returns the splits.
    """
    key = hashlib.sha256(json.dumps(rule, sort_keys=True).encode()).hexdigest()[:12]
    arrays, manifest = folder / f"{name}-{key}.npz", folder / f"{name}-{key}.json"
    if not _is_valid(arrays, manifest, rule):
        splits = generate()
        folder.mkdir(parents=True, exist_ok=True)
        _write(arrays, splits)
        counts = {split: len(rows) for split, rows in zip(SPLITS, splits, strict=True)}
        content = {"rule": rule, "rows": counts, "sha256": _digest(arrays)}
        temporary = manifest.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        temporary.replace(manifest)
        _LOG.info("cached %s", arrays)
    with np.load(arrays) as loaded:
        return [Rows(*(loaded[f"{split}_{column}"] for column in _COLUMNS)) for split in SPLITS]


def _write(path: Path, splits: list[Rows]) -> None:
    arrays: dict[str, Any] = {}
    for split, rows in zip(SPLITS, splits, strict=True):
        arrays |= {f"{split}_{name}": getattr(rows, name) for name in _COLUMNS}
    temporary = path.with_suffix(f".{os.getpid()}.tmp")  # another process may write the same
    with temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def _is_valid(arrays: Path, manifest: Path, rule: dict[str, Any]) -> bool:
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        return bool(content["rule"] == rule and content["sha256"] == _digest(arrays))
    except (OSError, ValueError, TypeError, KeyError):  # missing or broken
        return False


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
