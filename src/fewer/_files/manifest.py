"""Manifest of a folder: size and SHA-256 of its files, to detect damage.

It is written last and flushed to disk, so a folder with a manifest is complete.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from fewer._files.disk import read_json, write_json

__all__ = ["MANIFEST", "check_files", "is_whole", "write_manifest"]

MANIFEST = "fewer-manifest.json"
_BLOCK = 1 << 20


def write_manifest(folder: Path, files: Iterable[Path] | None = None) -> None:
    """Write the manifest of `files`, by default of all files in the folder, atomically."""
    content = {
        file.relative_to(folder).as_posix(): [file.stat().st_size, _digest(file)]
        for file in (_list_files(folder) if files is None else sorted(files))
    }
    write_json(content, folder / MANIFEST, indent=1)


def is_whole(folder: Path) -> bool:
    """Return whether the folder has a manifest and all files in it exist unchanged."""
    try:
        entries = _read_entries(folder)
        return bool(entries) and all(_matches(folder / name, *entries[name]) for name in entries)
    except (OSError, ValueError):  # the manifest itself may be broken
        return False


def check_files(folder: Path, names: Iterable[str] | None = None) -> None:
    """Raise `ValueError`, with the name, for a file that differs from the manifest.

    `names` limits the check to these files. Folders without a manifest, such as those from the hub,
    are not checked, nor are names that the manifest does not list.
    """
    if not (folder / MANIFEST).exists():
        return
    entries = _read_entries(folder)
    for name in entries if names is None else [name for name in names if name in entries]:
        if not _matches(folder / name, *entries[name]):
            raise ValueError(
                f"{folder / name} must be as it was saved; got other content or no file. Restore "
                f"the file; if it was changed on purpose, delete {folder / MANIFEST}."
            )


def _read_entries(folder: Path) -> dict[str, tuple[int, str]]:
    """Read the manifest. Raises `ValueError` for an invalid manifest."""
    path = folder / MANIFEST
    entries: dict[str, tuple[int, str]] = {}
    for name, entry in read_json(path).items():
        is_inside = not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts
        match entry:
            case [int(size), str(digest)] if is_inside:
                entries[name] = (size, digest)
            case _:
                raise ValueError(
                    f"{path} must map the files of its folder to [size, SHA-256]; got {name!r}: "
                    f"{entry!r}. Delete it, or save the model again."
                )
    return entries


def _matches(file: Path, size: int, digest: str) -> bool:
    return file.is_file() and file.stat().st_size == size and _digest(file) == digest


def _list_files(folder: Path) -> list[Path]:
    excluded = (MANIFEST, ".")  # the manifest and its temporary file; lock files
    files = [file for file in folder.rglob("*") if file.is_file()]
    return [file for file in files if not file.name.startswith(excluded)]


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
