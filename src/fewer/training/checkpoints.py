"""Checkpoints that survive a kill.

A folder counts only with a manifest that matches every file in it.

The Trainer writes a checkpoint file by file. Killed in between, it leaves a folder that looks
newest and fails the resume, or resumes silently without its optimizer. A manifest, written last and
flushed to disk, says that the folder is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

__all__ = ["is_whole", "newest_whole", "seal"]

MANIFEST = "manifest.json"


def seal(folder: Path) -> None:
    """Write the manifest: size and SHA-256 of every file of the folder.

    Replaces an older one at once or not at all.
    """
    content = {
        str(file.relative_to(folder)): [file.stat().st_size, _digest(file)]
        for file in _files(folder)
    }
    temporary = folder / (MANIFEST + ".tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        json.dump(content, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(folder / MANIFEST)


def is_whole(folder: Path) -> bool:
    """Tell whether every file of the manifest is there, unchanged."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return bool(content) and all(
            (folder / name).stat().st_size == size and _digest(folder / name) == digest
            for name, (size, digest) in content.items()
        )
    except (OSError, ValueError, TypeError, AttributeError):  # the manifest itself may be broken
        return False


def newest_whole(folder: Path) -> Path | None:
    """Return the newest `checkpoint-N` of a folder that is whole, or `None`."""
    numbered = [
        (int(path.name.rpartition("-")[2]), path)
        for path in folder.glob("checkpoint-*")
        if path.name[11:].isdigit()
    ]
    for _, path in sorted(numbered, reverse=True):
        if is_whole(path):
            return path
    return None


def _files(folder: Path) -> list[Path]:
    return sorted(
        file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(MANIFEST)
    )


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return (
            hashlib.file_digest(stream, "sha256").hexdigest()
            if hasattr(hashlib, "file_digest")
            else _slow(stream.read())
        )


def _slow(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()  # Python 3.10 has no file_digest
