"""The outcome of tests that run in a process of their own."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from benchmarks.gpu.laws import run_tests

TESTS = """
import time
import pytest

@pytest.mark.parametrize("size", ["1 token", "2"])
def test_holds(size):
    pass

def test_breaks():
    assert 1 == 2, "a law"
"""


def write(folder: Path, text: str) -> Path:
    (folder / "tests").mkdir()
    (folder / "tests" / "test_laws.py").write_text(text)
    return folder / "tests"


def test_passed_and_failed_laws_are_counted_and_the_failures_named(tmp_path: Path) -> None:
    row = run_tests(write(tmp_path, TESTS), tmp_path / "laws.txt", 60.0, passes=True)
    assert (row["passed"], row["failed"]) == (2, 1)
    assert "test_laws.py::test_breaks - AssertionError: a law" in row["failures"][0]
    assert row["error"] == "1 laws failed; pytest ended with 1"
    assert "test_holds[1 token] PASSED" in (tmp_path / "laws.txt").read_text()


def test_laws_that_all_skip_or_do_not_exist_are_an_error_on_a_gpu(tmp_path: Path) -> None:
    skipping = "import pytest\n\ndef test_gpu():\n    pytest.skip('no GPU')\n"
    tests = write(tmp_path, skipping)
    row = run_tests(tests, tmp_path / "laws.txt", 60.0, passes=True)
    assert (row["skipped_tests"], row["error"]) == (1, "no law ran")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run_tests(tmp_path / "nowhere", tmp_path / "laws.txt", 60.0, passes=True)


def test_outcomes_of_several_workers_count_and_all_are_stopped(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    slow = "\ndef test_hangs():\n    import os, pathlib\n"
    slow += f"    pathlib.Path({str(pid)!r}).write_text(str(os.getpid()))\n    time.sleep(60)\n"
    tests, limit_s = write(tmp_path, TESTS + slow), 5.0
    row = run_tests(tests, tmp_path / "laws.txt", limit_s, passes=True, workers=2)
    assert (row["passed"], row["failed"], row["error"]) == (2, 1, "stopped after 5 s")
    assert "test_breaks" in row["failures"][0]
    assert "[gw" in (tmp_path / "laws.txt").read_text()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid.read_text()}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)  # until its parent has reaped it
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
