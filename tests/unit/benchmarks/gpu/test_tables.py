"""What docs/gpu.md and the end of a run say of the rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.runner import LEFT_OUT
from benchmarks.gpu.tables import NOTHING, TABLES, summary, write_block
from scripts import tables

SHARED = {
    "dry_run": False,
    "versions": {"torch": "2.11.0", "cuda": "13.0"},
    "gpu": {"name": "NVIDIA H100", "driver": "580"},
    "model": "bert-base",
    "lengths": "imdb",
    "batch": 32,
    "precision": "bf16",
}
MS = {"median": 2.0, "p5": 1.5, "p95": 3.0, "runs": 20}
TIMED = {
    "wall_ms": MS,
    "gpu_ms": {**MS, "median": 1.75},
    "speedup": {"padded": 2.5, "sdpa-padded": 0.5},
    "memory_mb": 1234.5,
    "tokens_per_s": 1e6,
}
SYSTEMS: dict[str, dict[str, Any]] = {
    "encoder": {**TIMED, "flops_ratio": 1.0, "logit_difference": 0.004},
    "kernels": {**TIMED, "tflops_per_s": 321.0, "context_difference": 0.002},
    "host": {
        "wall_ms": 4.0,
        "busy_ms": 1.0,
        "idle_share": 0.75,
        "launches": 320.0,
        "synchronisations": 9,
    },
    "training": TIMED,
}
LINES = {
    "encoder": "| bert-base | imdb | 32 | bf16 | packed | 1.00 | 2.00 (1.50-3.00) | "
    "1.75 (1.50-3.00) | 2.5x faster | 1,000,000 | 1,234 | 0.004 |",
    "kernels": "| bert-base | imdb | 32 | packed | 1.75 (1.50-3.00) | 321.0 | "
    "2.0x slower | 0.002 |",
    "host": "| bert-base | imdb | 32 | packed | 4.00 | 1.00 | 75% | 320 | 9 |",
    "training": "| bert-base | imdb | 32 | packed | 2.00 (1.50-3.00) | 2.5x faster | "
    "1,000,000 | 1,234 |",
}


def row(section: str, **changes: Any) -> dict[str, Any]:
    systems = {"packed": SYSTEMS[section], "broken": {"error": "RuntimeError: x"}}
    case = f"{section}/bert-base/imdb/32/bf16"
    return {**SHARED, "section": section, "case": case, "systems": systems, **changes}


def laws(**changes: Any) -> dict[str, Any]:
    counts = {"passed": 41, "failed": 1, "skipped_tests": 2, "failures": ["FAILED test_x - no"]}
    return {**SHARED, "section": "laws", "case": "laws/tests", **counts, **changes}


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "gpu.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


@pytest.mark.parametrize("section", TABLES)
def test_without_rows_of_a_gpu_a_block_says_so(section: str, tmp_path: Path) -> None:
    assert write_block(section, tmp_path / "gpu.jsonl") == f"\n{NOTHING}\n"
    dry = laws(dry_run=True) if section == "laws" else row(section, dry_run=True)
    assert write_block(section, write(tmp_path, dry)) == f"\n{NOTHING}\n"


@pytest.mark.parametrize("section", LINES)
def test_a_block_shows_the_newest_row_of_a_case(section: str, tmp_path: Path) -> None:
    old = row(section, systems={"old": SYSTEMS[section]})
    block = write_block(section, write(tmp_path, old, row(section)))
    assert LINES[section] in block
    assert "old" not in block
    assert "broken" not in block
    assert "Measured on NVIDIA H100, driver 580, with cuda 13.0, torch 2.11.0." in block


def test_compiled_models_have_a_table_of_their_own(tmp_path: Path) -> None:
    compiled = row("host", case="host/compiled/x", systems={"padded-compiled": TIMED})
    block = write_block("host", write(tmp_path, row("host"), compiled))
    first, second = block.strip().split("\n\n")[:2]
    assert LINES["host"] in first
    line = "| bert-base | imdb | 32 | padded-compiled | 2.00 (1.50-3.00) | 2.5x faster |"
    assert line in second
    assert LINES["host"] not in write_block("host", write(tmp_path, compiled))


def test_the_page_is_filled_by_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    write(tmp_path, laws())
    page = "<!-- results:gpu_laws -->\n<!-- end results -->\n"
    assert "41 passed, 1 failed, 2 skipped (`tests/gpu`)." in tables.filled(page)
    text = (Path(__file__).parents[4] / "docs/gpu.md").read_text()
    blocks = {block[2] for block in tables.BLOCK.finditer(text)}
    assert blocks == {f"gpu_{section}" for section in TABLES}


def test_a_run_ends_with_its_times_errors_and_laws() -> None:
    left_out = {**SHARED, "section": "run", "case": LEFT_OUT, "left_out": ["host/x"]}
    lines = summary([laws(error="1 laws failed"), row("encoder"), row("host"), left_out]).split(
        "\n"
    )
    assert lines[0] == "encoder/bert-base/imdb/32/bf16: packed 2.50x, broken failed"
    assert "packed 4 ms 9 waits 75% idle" in lines[1]
    assert "ERROR laws/tests: 1 laws failed" in lines
    assert lines[-4:] == [
        "left out: host/x",
        "laws: 41 passed, 1 failed, 2 skipped",
        "  FAILED test_x - no",
        "4 rows, 3 with errors",
    ]
