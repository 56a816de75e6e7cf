"""The outcome of tests that run in a process of their own."""

from __future__ import annotations

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


def test_laws_that_take_too_long_are_stopped_and_the_outcomes_so_far_count(tmp_path: Path) -> None:
    slow = TESTS + "\ndef test_hangs():\n    time.sleep(60)\n"
    row = run_tests(write(tmp_path, slow), tmp_path / "laws.txt", 3.0, passes=True)
    assert row["error"] == "stopped after 3 s"
    assert (row["passed"], row["failed"]) == (2, 1)
    assert "test_breaks" in row["failures"][0]


def test_laws_that_all_skip_or_do_not_exist_are_an_error_on_a_gpu(tmp_path: Path) -> None:
    skipping = "import pytest\n\ndef test_gpu():\n    pytest.skip('no GPU')\n"
    tests = write(tmp_path, skipping)
    row = run_tests(tests, tmp_path / "laws.txt", 60.0, passes=True)
    assert (row["skipped_tests"], row["error"]) == (1, "no law ran")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run_tests(tmp_path / "nowhere", tmp_path / "laws.txt", 60.0, passes=True)
