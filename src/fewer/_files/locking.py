"""Lock a folder for one writer; the operating system releases the lock with the process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["LOCK_FILE", "lock_folder"]

LOCK_FILE = ".fewer.lock"


@contextmanager
def lock_folder(folder: str | Path) -> Iterator[None]:
    """Lock a folder for writing; create it if it does not exist.

    The lock file stays in the folder but has no effect once its process has ended, also by
    `kill -9`. Raises `ValueError` if another process, or another thread, holds the lock.
    """
    from filelock import FileLock, Timeout

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(
            f"{folder} must have one writer at a time; got a second writer. Wait for the first to "
            "end, or choose another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()
