"""One writer per folder: a lock that the operating system releases when its process ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["LOCK_FILE", "lock_folder"]

LOCK_FILE = ".fewer.lock"


@contextmanager
def lock_folder(folder: str | Path) -> Iterator[None]:
    """Hold the only right to write into a folder, which is made if it does not exist.

    The lock file stays in the folder; it means nothing once its process has ended, `kill -9`
    included. Raises `ValueError` if another process, or another thread of this one, is writing.
    """
    from filelock import FileLock, Timeout

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(
            f"{folder} must have one writer at a time; got a second one. Wait for the other to "
            "end, or choose another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()
