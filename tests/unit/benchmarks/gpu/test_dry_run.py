"""The command of a GPU on the CPU: every section and system really runs, with tiny models.

It runs in a process that lacks `datasets` and `seqeval`, as the machine with the GPU does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu.cases import Setting
from benchmarks.gpu.sizes import FULL
from fewer.measure.rows import read_results

ROOT = Path(__file__).parents[4]
WITHOUT_PACKAGES = """
import importlib.machinery, runpy, sys
find = importlib.machinery.PathFinder.find_spec
def find_others(name, *where):
    return None if name.split(".")[0] in {"datasets", "seqeval"} else find(name, *where)
importlib.machinery.PathFinder.find_spec = staticmethod(find_others)
runpy.run_module("benchmarks.gpu", run_name="__main__")
"""
LAWS = (
    "import pytest\n\n\ndef test_law():\n    pass\n\n\ndef test_gpu():\n    pytest.skip('none')\n"
)
SHARED = {"kind", "time", "command", "versions", "commit", "processor", "seed", "gpu", "dry_run"}
TRITON = {"triton", "triton + received", "triton.received"} if find_spec("triton") else set()
CONFIGURED = {"sdpa-padded", *TRITON, *(f"{name} 16x16x4x1" for name in TRITON)}
SYSTEMS = {
    "encoder": {"padded", "packed", "optimized", "half", "exits"},
    "kernels": {"sdpa-padded", "sdpa", "sdpa + received", *TRITON},
    "host": {"padded", "packed", "optimized"},
    "training": {"padded", "packed", "ltp-soft"},
    "profile": {"packed", "half"},
}


@dataclass
class Run:
    status: int
    output: str
    folder: Path
    rows: list[dict[str, Any]]

    def of(self, section: str) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["section"] == section]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    laws, folder = (tmp_path_factory.mktemp(name) for name in ("laws", "out"))
    (laws / "test_laws.py").write_text(LAWS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["src", "."])}
    environment["TRITON_INTERPRET"] = "1"  # Triton's kernels run too, where it is installed
    options = ["--dry-run", "--out", str(folder), "--laws", str(laws)]
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGES, *options],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (folder / "gpu.jsonl").exists(), process.stderr
    rows = read_results(folder / "gpu.jsonl")
    return Run(process.returncode, process.stdout, folder, rows)


def test_all_that_a_gpu_would_measure_runs_without_an_error(run: Run) -> None:
    assert [row for row in run.rows if "error" in row] == []
    failed = [
        (row["case"], name, system["error"])
        for row in run.rows
        for name, system in row.get("systems", {}).items()
        if "error" in system
    ]
    assert failed == []
    assert run.status == 0
    setting = Setting(command.torch.device("cuda"), FULL, run.folder, run.folder)
    full = {case.section for case in command.list_cases(setting)}
    assert {row["section"] for row in run.rows} == full == {"laws", *SYSTEMS}


def test_every_row_has_its_provenance_and_its_systems(run: Run) -> None:
    for row in run.rows:
        assert row.keys() >= SHARED
        assert row["kind"] == "gpu"
        assert row["dry_run"] is True
        assert "torch" in row["versions"]
        assert row["command"].startswith("python -m benchmarks.gpu --dry-run")
    for section, systems in SYSTEMS.items():
        for row in run.of(section):
            is_configured = row["case"].startswith("kernels/configs")
            assert row["systems"].keys() >= (CONFIGURED if is_configured else systems)
            assert len(row["data"]["hash"]) == 16
            assert sum(row["tokens"]) > 0
    (laws,) = run.of("laws")
    assert (laws["passed"], laws["failed"], laws["skipped_tests"]) == (1, 0, 1)


def test_no_speed_is_shown_without_equality_and_flops(run: Run) -> None:
    for row in run.of("encoder"):
        for name in ("packed", "sorted", "optimized"):
            if name in row["systems"]:
                system = row["systems"][name]
                assert system["logit_difference"] <= 0.05 * system["logit_spread"]
        assert row["systems"]["exits"]["exit_share"] == 0.5
        assert row["systems"]["half"]["flops_ratio"] < row["systems"]["packed"]["flops_ratio"] == 1
        assert row["systems"]["padded"]["flops_ratio"] >= 1
    for row in run.of("kernels"):
        for name, system in row["systems"].items():
            if name in ("sdpa", "triton", "triton 16x16x4x1"):
                assert system["context_difference"] < 0.005
                assert system["received_difference"] < 0.001
    assert "aten::addmm" in (run.folder / "profile.txt").read_text()
    assert f"{len(run.rows)} rows, 0 with errors" in run.output.splitlines()[-1]
