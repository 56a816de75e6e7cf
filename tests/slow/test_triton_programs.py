"""The Triton programs in the real compiler, which the interpreter stands in for elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

SHARED_MEMORY = 99 * 1024  # of a block on the smallest devices from compute capability 8.0 on
STACK = 64  # bytes per thread: more are registers spilled to memory


@pytest.mark.parametrize("capability", ["80", "90"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_programs_compile_with_next_to_no_spilled_registers(dtype, capability, tmp_path):
    # a process of its own: this one has Triton's interpreter
    environment = {name: os.environ[name] for name in os.environ if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-m", "tests.slow.triton_programs", capability, dtype, "32", "64", "80"],
        cwd=Path(__file__).parents[2],
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(rows) == 3 * 6
    for row in rows:
        assert row["stack"] <= STACK, row
        assert row["shared"] <= SHARED_MEMORY, row
        has_products = row["program"] != "merge"
        assert row["has_tensor_cores"] == (has_products and dtype != "fp32"), row
