"""The laws on a GPU: the tests of `tests/gpu`, in a process of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu.cases import Case, Setting

__all__ = ["cases", "run_tests"]

LIMIT_S = 120.0
SHOWN = 5
_OUTCOME = re.compile(r"^(\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b", re.MULTILINE)
_SUMMARY = re.compile(r"^(?:FAILED|ERROR) .*$", re.MULTILINE)


def cases(setting: Setting) -> list[Case]:
    """List one case, measured before all others."""
    return [Case("laws/tests", 0, 20.0, partial(measure, setting))]


def measure(setting: Setting) -> dict[str, Any]:
    """Run the tests, and keep their output in `laws.txt`."""
    return run_tests(setting.laws, setting.folder / "laws.txt", LIMIT_S, passes=not setting.is_dry)


def run_tests(tests: Path, output: Path, limit_s: float, *, passes: bool) -> dict[str, Any]:
    """Run a folder of tests and count outcomes; the names of the first failures come with them.

    Warnings of other versions of torch are no errors here. With `passes` at least one test must
    have passed, since all are skipped where there is no GPU.
    """
    if not tests.exists():
        raise FileNotFoundError(f"the folder of the laws must exist; got {tests}.")
    command = [sys.executable, "-u", "-m", "pytest", "-v", "--tb=short", "-W", "default"]
    command += ["-p", "no:cacheprovider", str(tests)]
    environment = {**os.environ, "COLUMNS": "300"}  # else a failure's reason is cut off
    status: int | None
    with output.open("w", encoding="utf-8") as stream:
        try:
            status = subprocess.run(
                command,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=environment,
                timeout=limit_s,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            status = None
    text = output.read_text(encoding="utf-8")
    outcomes = _OUTCOME.findall(text)
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
