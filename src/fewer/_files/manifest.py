"""A manifest of a folder: size and SHA-256 of its files, so that damage does not pass unseen.

Written last and flushed to disk, it also says that the folder is whole.
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
    """Write the manifest of `files`, by default of every file in the folder.

    Replaces an older one at once or not at all.
    """
    content = {
        file.relative_to(folder).as_posix(): [file.stat().st_size, _digest(file)]
        for file in (_files(folder) if files is None else sorted(files))
    }
    write_json(content, folder / MANIFEST, indent=1)


def is_whole(folder: Path) -> bool:
    """Tell whether there is a manifest, and every file of it is there, unchanged."""
    try:
        entries = _entries(folder)
        return bool(entries) and all(_matches(folder / name, *entries[name]) for name in entries)
    except (OSError, ValueError):  # the manifest itself may be broken
        return False


def check_files(folder: Path, names: Iterable[str] | None = None) -> None:
    """Raise `ValueError` for a file that is not as the manifest says, by its name.

    `names` limits the check to files that are read. A folder without a manifest, such as one from
    the hub, is not checked; a name that the manifest does not hold neither.
    """
    if not (folder / MANIFEST).exists():
        return
    entries = _entries(folder)
    for name in entries if names is None else [name for name in names if name in entries]:
        if not _matches(folder / name, *entries[name]):
            raise ValueError(
                f"{folder / name} must be as it was saved; got other content or none. Restore the "
                f"file; if it was changed on purpose, delete {folder / MANIFEST}."
            )


def _entries(folder: Path) -> dict[str, tuple[int, str]]:
    """Read the manifest. Raises `ValueError` for one that is not understood."""
    path = folder / MANIFEST
    entries: dict[str, tuple[int, str]] = {}
    for name, entry in read_json(path).items():
        inside = not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts
        match entry:
            case [int(size), str(digest)] if inside:
                entries[name] = (size, digest)
            case _:
                raise ValueError(
                    f"{path} must map the files of its folder to [size, SHA-256]; got {name!r}: "
                    f"{entry!r}. Delete it, or save the model again."
                )
    return entries


def _matches(file: Path, size: int, digest: str) -> bool:
    return file.is_file() and file.stat().st_size == size and _digest(file) == digest


def _files(folder: Path) -> list[Path]:
    ours = (MANIFEST, ".")  # the manifest and its temporary file; lock files
    return [file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(ours)]


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
