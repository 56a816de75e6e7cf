"""The laws on a GPU: the tests of `tests/gpu`, in a process of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from benchmarks.gpu.cases import Case, Setting

__all__ = ["cases", "run_tests"]

LIMIT_S = 150.0
MOST_WORKERS = 12  # they compile kernels, each on a core of its own
SHOWN = 5
_OUTCOMES = "(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)"
_ALONE = re.compile(rf"^(\S+::.+?) {_OUTCOMES}\b", re.MULTILINE)
_BY_WORKER = re.compile(rf"^\[gw\d+\] \[ *\d+%\] {_OUTCOMES} (\S+::.+?) *$", re.MULTILINE)
_SUMMARY = re.compile(r"^(?:FAILED|ERROR) .*$", re.MULTILINE)


def cases(setting: Setting) -> list[Case]:
    """List one case, measured before all others."""
    return [Case("laws/tests", 0, 60.0, partial(measure, setting))]


def measure(setting: Setting) -> dict[str, Any]:
    """Run the tests, and keep their output in `laws.txt`."""
    workers = 0
    if not setting.is_dry and find_spec("xdist"):
        workers = min(MOST_WORKERS, (os.cpu_count() or 1) - 2)
    output = setting.folder / "laws.txt"
    return run_tests(setting.laws, output, LIMIT_S, passes=not setting.is_dry, workers=workers)


def run_tests(
    tests: Path, output: Path, limit_s: float, *, passes: bool, workers: int = 0
) -> dict[str, Any]:
    """Run a folder of tests and count outcomes; the names of the first failures come with them.

    Warnings of other versions of torch are no errors here. With `passes` at least one test must
    have passed, since all are skipped where there is no GPU.
    """
    if not tests.exists():
        raise FileNotFoundError(f"the folder of the laws must exist; got {tests}.")
    command = [sys.executable, "-u", "-m", "pytest", "-v", "--tb=short", "-W", "default"]
    command += ["-p", "no:cacheprovider", str(tests)]
    if workers > 1:
        command += ["-n", str(workers)]
    environment = {**os.environ, "COLUMNS": "300"}  # else a failure's reason is cut off
    with output.open("w", encoding="utf-8") as stream:
        status = _run_group(command, stream, environment, limit_s)
    text = output.read_text(encoding="utf-8")
    outcomes = _ALONE.findall(text)
    outcomes += [(name, outcome) for outcome, name in _BY_WORKER.findall(text)]
    counts = Counter(outcome for _, outcome in outcomes)
    failures = [name for name, outcome in outcomes if outcome in ("FAILED", "ERROR", "XPASS")]
    row: dict[str, Any] = {
        "passed": counts["PASSED"],
        "failed": len(failures),
        "skipped_tests": counts["SKIPPED"],
        "failures": (_SUMMARY.findall(text) or failures)[:SHOWN],
    }
    if status is None:
        row["error"] = f"stopped after {limit_s:g} s"
    elif status or failures:
        row["error"] = f"{len(failures)} laws failed; pytest ended with {status}"
        if not failures:
            row["traceback"] = text[-2000:]
    elif passes and not counts["PASSED"]:
        row["error"] = "no law ran"
    return row


def _run_group(
    command: list[str], output: IO[str], environment: dict[str, str], limit_s: float
) -> int | None:
    """Run a command and its workers; return its exit status, `None` where the limit stopped it."""
    process = subprocess.Popen(
        command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
    )
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # workers would go on using the GPU
            process.wait()
