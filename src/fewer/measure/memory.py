"""The memory of a call, and a limit to the memory of a process."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

__all__ = ["limit_growth", "peak_growth_mb", "trim_memory"]

_PROCESS = Path("/proc/self")


def peak_growth_mb(call: Callable[[], object]) -> float:
    """Run a call and return the growth of this process's memory at its peak, in megabytes.

    The peak is reset before the call on Linux only. Elsewhere the growth is over the earlier peak,
    and 0 if an earlier call used more memory.
    """
    reset = _PROCESS / "clear_refs"
    if reset.exists():
        trim_memory()  # else the call reuses memory that was freed before
        before: float = _kilobytes("VmRSS")
        reset.write_text("5")
    else:
        before = _peak_kilobytes()
    call()
    return (_peak_kilobytes() - before) / 1024


def trim_memory() -> None:
    """Return freed memory to the system; on Linux (glibc) only."""
    ctypes.CDLL(None).malloc_trim(0)


def limit_growth(megabytes: int) -> None:
    """Limit the further growth of this process's address space, permanently.

    Allocated memory counts, used or not; memory that was freed before can be reused. Beyond the
    limit torch raises `RuntimeError` ("can't allocate memory") and Python
    `MemoryError`. On Linux only: raises `RuntimeError` elsewhere.
    """
    if not (_PROCESS / "status").exists():
        raise RuntimeError("the system must be Linux to limit memory; got no /proc/self/status.")
    import resource  # not on Windows

    limit_bytes = (_kilobytes("VmSize") << 10) + (megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))


def _peak_kilobytes() -> float:
    """Return the peak memory of this process in kilobytes."""
    if (_PROCESS / "status").exists():  # Linux, where ru_maxrss starts at the memory of the parent
        return _kilobytes("VmHWM")
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # bytes on macOS


def _kilobytes(name: str) -> int:
    match = re.search(rf"{name}:\s+(\d+) kB", (_PROCESS / "status").read_text())
    assert match is not None
    return int(match[1])
