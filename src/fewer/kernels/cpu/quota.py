"""The share of the processor that a container gives to this process.

A quota of Linux (`docker run --cpus`, limits of Kubernetes) is not a number of cores: all of them
are seen, and once the quota of a period is used up all threads stop until the next. Threads that
wait by spinning use it up, so more threads than the quota are slower than few.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import torch

__all__ = ["cpu_quota", "warn_of_quota"]

_MEMBERSHIP, _MOUNTED = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
_V1 = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
_V2 = "cpu.max"


def cpu_quota(membership: Path = _MEMBERSHIP, mounted: Path = _MOUNTED) -> float | None:
    """Return how many cores' time this process may use, `None` without a limit or off Linux.

    It is the least quota of its control group (version 1 or 2) and of those above it.
    """
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    quotas: list[float] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root = mounted
        elif "cpu" in controllers.split(","):
            root = next(
                (f for f in (mounted / controllers, mounted / "cpu") if f.is_dir()), mounted
            )
        else:
            continue
        for folder in _from_root(root, path):
            quotas += _read_quota(folder)
    return min(quotas, default=None)


def warn_of_quota() -> None:
    """Warn where torch runs more threads than the quota has cores, with what to do."""
    quota, threads = cpu_quota(), torch.get_num_threads()
    if quota is None or threads <= max(1, math.ceil(quota)):
        return
    warnings.warn(
        f"this container may use the time of {quota:g} CPUs, and torch runs {threads} threads, "
        "which use it up while they wait for each other. Call "
        f"torch.set_num_threads({max(1, math.floor(quota))}).",
        stacklevel=3,
    )


def _from_root(root: Path, path: str) -> Iterator[Path]:
    """Yield the folders of a group and those above it, as far as they are seen from inside."""
    yield root
    folder = root
    for part in PurePosixPath(path).parts[1:]:
        folder = folder / part
        yield folder


def _read_quota(folder: Path) -> list[float]:
    """Read the quota in cores of a folder of version 1 or 2, if it has one."""
    try:
        if (folder / _V2).exists():
            quota, period = (folder / _V2).read_text().split()
        else:
            quota, period = ((folder / name).read_text().strip() for name in _V1)
        cores = float(quota) / float(period)  # "max" in version 2, -1 in version 1: no limit
    except (OSError, ValueError, ZeroDivisionError):
        return []
    return [cores] if cores > 0 else []
