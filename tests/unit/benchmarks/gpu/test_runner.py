"""Rows as they are measured, within a budget; a failing case stops nothing."""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import runner
from benchmarks.gpu.cases import Case
from benchmarks.gpu.runner import LEFT_OUT, errors_of, execute
from fewer.measure.rows import read_results

CPU = torch.device("cpu")


def _give(**row: Any) -> dict[str, Any]:
    return row


def _fail() -> dict[str, Any]:
    raise ZeroDivisionError("of a kernel")


def case(name: str, rank: int = 1, seconds: float = 1.0, measure: Any = _give) -> Case:
    return Case(name, rank, seconds, measure)


def rows_of(path: Path, *cases: Case, deadline: float = 100.0) -> list[dict[str, Any]]:
    execute(cases, path, {"kind": "gpu"}, CPU, deadline=deadline, clock=lambda: 0.0)
    return read_results(path)


def run_command(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *cases: Case, words: Any = ()
) -> int:
    monkeypatch.setattr(command, "list_cases", lambda setting: list(cases))
    return command.main(["--dry-run", "--out", str(folder), *words])


def test_a_raising_case_gives_a_row_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = (case("kernels/a", measure=_fail), case("host/b"))
    assert run_command(monkeypatch, tmp_path, *cases) == 1
    first, second = read_results(tmp_path / "gpu.jsonl")
    assert first["error"] == "ZeroDivisionError: of a kernel"
    assert "_fail" in first["traceback"]
    assert (first["section"], second["section"]) == ("kernels", "host")
    assert "ERROR kernels/a: ZeroDivisionError" in capsys.readouterr().out


def test_a_failing_system_counts_as_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = partial(_give, systems={"packed": {"error": "OutOfMemoryError: 1 GB"}})
    assert run_command(monkeypatch, tmp_path, case("encoder/a", measure=measure)) == 1
    assert errors_of(read_results(tmp_path / "gpu.jsonl")[0]) == ["packed: OutOfMemoryError: 1 GB"]


def test_ranks_order_the_cases_and_the_budget_names_what_it_leaves_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = (
        case("host/late", rank=3, seconds=11.0),
        case("encoder/second", rank=2),
        case("laws/first", rank=0),
        case("host/too-long", rank=1, seconds=20.0),
    )
    *measured, last = rows_of(tmp_path / "gpu.jsonl", *cases, deadline=10.0)
    assert [row["case"] for row in measured] == ["laws/first", "encoder/second"]
    assert last["case"] == LEFT_OUT
    assert last["left_out"] == ["host/too-long", "host/late"]
    assert "left out, over the budget: host/too-long, host/late" in capsys.readouterr().out


def test_a_row_is_in_the_file_before_the_next_case_starts(tmp_path: Path) -> None:
    path, seen = tmp_path / "gpu.jsonl", []

    def look() -> dict[str, Any]:
        seen.extend(row["case"] for row in read_results(path))
        return {}

    rows_of(path, case("encoder/a"), case("encoder/b", measure=look))
    assert seen == ["encoder/a"]


def test_a_case_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "PATIENCE", -29.95)

    def hang() -> dict[str, Any]:
        time.sleep(10)
        return {}

    (row,) = rows_of(tmp_path / "gpu.jsonl", case("host/a", measure=hang))
    assert row["error"].startswith("TimeoutError: stopped")


def test_after_a_fault_of_the_gpu_another_process_measures_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(runner, "_is_lost", lambda device: True)
    stand_in = SimpleNamespace(
        run=lambda words, check: commands.append(words) or SimpleNamespace(returncode=1)
    )
    monkeypatch.setattr(command, "subprocess", stand_in)
    cases = (case("kernels/a", measure=_fail), case("host/b"))
    assert run_command(monkeypatch, tmp_path, *cases, words=["--seconds", "100"]) == 1
    assert [row["case"] for row in read_results(tmp_path / "gpu.jsonl")] == ["kernels/a"]
    assert commands[0][1:3] == ["-m", "benchmarks.gpu"]
    assert "--resume" in commands[0]
    assert 80 <= float(commands[0][-1]) <= 100 - command.START_S  # the last --seconds counts
    monkeypatch.undo()
    assert run_command(monkeypatch, tmp_path, *cases, words=["--resume"]) == 1
    assert [row["case"] for row in read_results(tmp_path / "gpu.jsonl")] == ["kernels/a", "host/b"]


def test_what_cannot_be_measured_is_refused_by_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(monkeypatch, tmp_path, case("host/a"), words=["--only", "hots"]) == 2
    assert "--only must begin a case's name; got hots" in capsys.readouterr().err
    assert run_command(monkeypatch, tmp_path, case("host/a")) == 0
    assert run_command(monkeypatch, tmp_path, case("host/a")) == 2
    assert "--resume" in capsys.readouterr().err
    monkeypatch.setattr(command, "training_device", lambda: CPU)
    assert command.main(["--out", str(tmp_path / "other")]) == 2
    assert "--dry-run" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_copy_without_git_may_be_told_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "provenance", lambda: {"commit": None, "versions": {}})
    row = runner.describe_run(["--dry-run"], CPU, "abc")
    assert row["commit"] == "abc"
    assert row["command"] == "python -m benchmarks.gpu --dry-run"


def test_what_the_library_logs_is_kept_in_the_row(tmp_path: Path) -> None:
    def log() -> dict[str, Any]:
        logging.getLogger("fewer").warning("a slow kernel runs")
        return {}

    rows = rows_of(tmp_path / "gpu.jsonl", case("host/a", measure=log), case("host/b"))
    assert [row.get("log") for row in rows] == [["a slow kernel runs"], None]


def test_a_row_of_a_gpu_names_it_and_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(
        name="NVIDIA H100", total_memory=80 * 2**30, multi_processor_count=132, major=9, minor=0
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    stand_in = SimpleNamespace(
        run=lambda words, **options: SimpleNamespace(stdout="580.159.04\n580.159.04\n"),
        SubprocessError=OSError,
    )
    monkeypatch.setattr(runner, "subprocess", stand_in)
    assert runner.describe_run([], torch.device("cuda"), None)["gpu"] == {
        "name": "NVIDIA H100",
        "memory_gb": 80.0,
        "multiprocessors": 132,
        "capability": "9.0",
        "driver": "580.159.04",
    }


def test_without_nvidia_smi_the_driver_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert runner._driver() is None
