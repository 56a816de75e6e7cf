"""How much memory a call takes."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

__all__ = ["growth_mb"]

_OWN = Path("/proc/self")


def growth_mb(call: Callable[[], object]) -> float:
    """Run a call and return the megabytes that this process held at most beyond those before it.

    On Linux only: elsewhere the most that was ever held cannot be forgotten. Raises
    `RuntimeError` there.
    """
    if not (_OWN / "clear_refs").exists():
        raise RuntimeError("memory is measured on Linux only: there is no /proc/self/clear_refs")
    ctypes.CDLL(None).malloc_trim(0)  # else the call is given memory that was freed before
    before = _kilobytes("VmRSS")
    (_OWN / "clear_refs").write_text("5")  # forget the most so far
    call()
    return (_kilobytes("VmHWM") - before) / 1024


def _kilobytes(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", (_OWN / "status").read_text())
    assert found is not None
    return int(found[1])
