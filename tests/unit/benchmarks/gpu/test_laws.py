"""The outcome of tests that run in a process of their own."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import IO

import pytest

from benchmarks.gpu import laws
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


def test_outcomes_of_several_workers_count(tmp_path: Path) -> None:
    row = run_tests(write(tmp_path, TESTS), tmp_path / "laws.txt", 60.0, passes=True, workers=2)
    assert (row["passed"], row["failed"]) == (2, 1)
    assert "test_breaks - AssertionError: a law" in row["failures"][0]
    assert "[gw" in (tmp_path / "laws.txt").read_text()


def test_outcomes_before_the_limit_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (
        "tests/gpu/test_a.py::test_x ",
        "[gw3] [  5%] PASSED tests/gpu/test_a.py::test_x[one text-16] ",
        "[gw0] [ 10%] FAILED tests/gpu/test_a.py::test_y ",
        "[gw0] [100%] SKIPPED tests/gpu/test_a.py::test_z ",
    )

    def stop(command: object, output: IO[str], *_: object) -> None:
        output.write("\n".join(lines))

    monkeypatch.setattr(laws, "_run_group", stop)
    row = run_tests(tmp_path, tmp_path / "laws.txt", 5.0, passes=True, workers=4)
    assert row["error"] == "stopped after 5 s"
    assert (row["passed"], row["failed"], row["skipped_tests"]) == (1, 1, 1)
    assert row["failures"] == ["tests/gpu/test_a.py::test_y"]


def test_the_limit_stops_the_workers_too(tmp_path: Path) -> None:
    command = ["sh", "-c", "sleep 60 & echo $!; wait"]
    with (tmp_path / "out").open("w") as stream:
        assert laws._run_group(command, stream, dict(os.environ), 1.0) is None
    worker = int((tmp_path / "out").read_text())
    deadline = time.monotonic() + 10
    while _is_running(worker) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _is_running(worker)


def _is_running(process: int) -> bool:
    """Return whether a process runs; one that nobody has reaped does not."""
    state = Path(f"/proc/{process}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"
