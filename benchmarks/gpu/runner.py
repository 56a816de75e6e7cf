"""Measure cases within a budget; each row is written as soon as it is measured."""

from __future__ import annotations

import gc
import logging
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.cases import Case
from benchmarks.gpu.timing import describe_error
from fewer.measure.rows import append_row, provenance
from fewer.training.device import synchronize

__all__ = ["LEFT_OUT", "describe_run", "errors_of", "execute"]

LEFT_OUT = "run/left-out"  # the case of the row that names what the budget left out
PATIENCE = 5  # a case is stopped after so many times its estimate, and 30 s

Row = dict[str, Any]


def execute(
    cases: Sequence[Case],
    path: Path,
    shared: Row,
    device: torch.device,
    *,
    deadline: float,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Measure cases by rank and append their rows; return whether the device was lost.

    A case whose estimate does not fit before the deadline is left out, and the last row names
    those. A case that raises gives a row with its error. After a kernel's fault a process cannot
    use the GPU again: then the rest must run in another.
    """
    left_out = []
    for case in sorted(cases, key=lambda case: case.rank):
        remaining = deadline - clock()
        if case.seconds > remaining:
            left_out.append(case.name)
            continue
        start = clock()
        row = _measure(case, remaining)
        row = {**shared, **_timestamp(), "section": case.section, "case": case.name, **row}
        row["seconds"] = clock() - start
        append_row(row, path)
        _report(row)
        if errors_of(row):
            if _is_lost(device):
                return True
            _free_memory(device)
    if left_out:
        row = {**shared, **_timestamp(), "section": "run", "case": LEFT_OUT, "left_out": left_out}
        append_row(row, path)
        print(f"left out, over the budget: {', '.join(left_out)}", flush=True)
    return False


def describe_run(arguments: Sequence[str], device: torch.device, commit: str | None) -> Row:
    """Return what all rows of a run have in common: command, versions, commit, machine, GPU."""
    row = {"kind": "gpu", **provenance(), "seed": 0, "dry_run": device.type == "cpu"}
    row["command"] = shlex.join(["python", "-m", "benchmarks.gpu", *arguments])
    if row["commit"] is None and commit is not None:
        row |= {"commit": commit, "modified": None}  # a copy of the checkout, without git
    row["versions"] = {**row["versions"], **_versions("triton", "flash_attn", "numpy")}
    return {**row, "gpu": _describe_gpu(device)}


def errors_of(row: Row) -> list[str]:
    """Return the errors of a row and of its systems."""
    errors = [row["error"]] if "error" in row else []
    return errors + [
        f"{name}: {system['error']}"
        for name, system in row.get("systems", {}).items()
        if "error" in system
    ]


def _measure(case: Case, remaining: float) -> Row:
    messages = _Messages()
    logger = logging.getLogger("fewer")
    logger.addHandler(messages)
    try:
        with _time_limit(min(PATIENCE * case.seconds + 30.0, remaining + 30.0)):
            row = case.measure()
    except Exception as error:
        row = describe_error(error)
    finally:
        logger.removeHandler(messages)
    return {**row, "log": messages.texts} if messages.texts else row


class _Messages(logging.Handler):
    """Keeps what the library says once, such as that a kernel is slow here."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` inside the block after so many seconds; in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise TimeoutError(f"stopped after {seconds:.0f} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _is_lost(device: torch.device) -> bool:
    """Return whether a fault has made the GPU unusable for this process."""
    try:
        synchronize(device)
        torch.ones(1, device=device).sum().item()
    except RuntimeError:
        return True
    return False


def _free_memory(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _report(row: Row) -> None:
    errors = errors_of(row)
    note = f"; {'; '.join(error[:200] for error in errors)}" if errors else ""
    print(f"{row['seconds']:6.1f} s  {row['case']}{note}", flush=True)


def _timestamp() -> Row:
    return {"time": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())}


def _versions(*names: str) -> dict[str, str]:
    versions = {"cuda": str(torch.version.cuda)} if torch.version.cuda else {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _describe_gpu(device: torch.device) -> Row | None:
    if device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "memory_gb": properties.total_memory / 2**30,
        "multiprocessors": properties.multi_processor_count,
        "capability": f"{properties.major}.{properties.minor}",
        "driver": _driver(),
    }


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        process = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return process.stdout.strip().partition("\n")[0]
