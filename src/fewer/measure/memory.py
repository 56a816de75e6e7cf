"""How much memory a call takes, and a limit to it."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

__all__ = ["give_back", "growth_mb", "limit_growth"]

_OWN = Path("/proc/self")


def growth_mb(call: Callable[[], object]) -> float:
    """Run a call and return the megabytes that this process held at most beyond those before it.

    Where the most that was ever held cannot be forgotten (elsewhere than on Linux), those beyond
    that most: nothing, if an earlier call held more.
    """
    forget = _OWN / "clear_refs"
    if forget.exists():
        give_back()  # else the call is given memory that was freed before
        before: float = _kilobytes("VmRSS")
        forget.write_text("5")
    else:
        before = _most()
    call()
    return (_most() - before) / 1024


def give_back() -> None:
    """Return memory that was freed to the system; on Linux (glibc) only."""
    ctypes.CDLL(None).malloc_trim(0)


def limit_growth(megabytes: int) -> None:
    """Refuse this process memory beyond what it holds now and so many megabytes, for good.

    What is asked for counts, used or not; memory that was freed and kept before may be used again
    besides. When refused, torch raises `RuntimeError` ("can't allocate memory") and Python
    `MemoryError`. On Linux only: raises `RuntimeError` elsewhere.
    """
    if not (_OWN / "status").exists():
        raise RuntimeError("memory is limited on Linux only: there is no /proc/self/status")
    import resource  # not on Windows

    limit_bytes = (_kilobytes("VmSize") << 10) + (megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))


def _most() -> float:
    """Return the most kilobytes that this process has held."""
    if (_OWN / "status").exists():  # Linux; there ru_maxrss begins with what the parent held
        return _kilobytes("VmHWM")
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # bytes on macOS


def _kilobytes(name: str) -> int:
    match = re.search(rf"{name}:\s+(\d+) kB", (_OWN / "status").read_text())
    assert match is not None
    return int(match[1])
