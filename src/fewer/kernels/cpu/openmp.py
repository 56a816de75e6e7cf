"""GNU OpenMP, whose threads compute PyTorch's operations beside those of the compiled kernels.

Forks: its threads do not exist in the child of a fork, but its state counts them: the first
parallel loop of the child waits for them for ever. They are therefore ended before a fork, in each
loaded copy of the library (torch and scikit-learn may each bring one), and start again at the next
parallel loop, in the parent and in the child.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import c_void_p
from functools import cache
from pathlib import Path

import torch

__all__ = ["openmp_libraries", "parallel_region", "pause_at_forks"]

_MAPS, _TASKS = Path("/proc/self/maps"), Path("/proc/self/task")
_PAUSE_HARD = 2  # omp_pause_hard


@cache
def pause_at_forks() -> None:
    """Register a handler that ends the OpenMP threads of the forking thread before each fork.

    It covers forks by Python (`os.fork`, `multiprocessing`) on Linux, and no other system.
    """
    if _MAPS.exists() and hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_end_threads)


def openmp_libraries() -> tuple[str, ...]:
    """Return the paths of all loaded copies of GNU OpenMP; none where the system is not Linux."""
    if not _MAPS.exists():
        return ()
    lines = _MAPS.read_text().splitlines()
    paths = {line.split(maxsplit=5)[-1] for line in lines if "libgomp" in line}
    return tuple(sorted(path for path in paths if Path(path).is_file()))


def parallel_region() -> int | None:
    """Return the address of GOMP_parallel, which runs a function on several threads, for torch.

    `None` where torch has another OpenMP, or none.
    """
    folder = str(Path(torch.__file__).parent)
    for path in sorted(openmp_libraries(), key=lambda path: not path.startswith(folder)):
        library = ctypes.CDLL(path)
        if hasattr(library, "GOMP_parallel"):  # GCC 4.9
            return ctypes.cast(library.GOMP_parallel, c_void_p).value
    return None


def _end_threads() -> None:
    # a process of one thread has none to end, though perhaps state from before a fork
    if len(list(_TASKS.iterdir())) > 1:
        for path in openmp_libraries():
            library = ctypes.CDLL(path)
            if hasattr(library, "omp_pause_resource_all"):  # GCC 9
                library.omp_pause_resource_all(_PAUSE_HARD)
