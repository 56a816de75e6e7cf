"""Let a process fork after several threads have run a kernel.

The threads of GNU OpenMP do not exist in the child of a fork, but its records say that they do: the
first parallel loop of the child waits for them for ever. They are therefore ended before a fork, in
each copy of the library that is loaded (torch, scikit-learn and the compiled kernels may bring one
each), and started again at the next parallel loop, in the parent and in the child.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

__all__ = ["openmp_libraries", "pause_at_forks"]

_MAPS, _TASKS = Path("/proc/self/maps"), Path("/proc/self/task")
_HARD = 2  # omp_pause_hard


@cache
def pause_at_forks() -> None:
    """End the OpenMP threads of the forking thread before each fork, from now on.

    For forks by Python (`os.fork`, `multiprocessing`) on Linux; elsewhere nothing is done.
    """
    if _MAPS.exists() and hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_pause)


def openmp_libraries() -> tuple[str, ...]:
    """Return the paths of all copies of GNU OpenMP that this process has loaded."""
    lines = _MAPS.read_text().splitlines()
    paths = {line.split(maxsplit=5)[-1] for line in lines if "libgomp" in line}
    return tuple(sorted(path for path in paths if Path(path).is_file()))


def _pause() -> None:
    # in a process of one thread there are none to end, but perhaps records from before a fork
    if len(list(_TASKS.iterdir())) > 1:
        for path in openmp_libraries():
            library = ctypes.CDLL(path)
            if hasattr(library, "omp_pause_resource_all"):  # GCC 9
                library.omp_pause_resource_all(_HARD)
