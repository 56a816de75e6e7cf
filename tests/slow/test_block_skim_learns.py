"""Block-Skim finds the block that holds the answer, and reads little else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.slow.spotlight", str(tmp_path_factory.mktemp("run"))]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root)
    return json.loads(done.stdout.splitlines()[-1])


def test_the_answer_is_found_with_little_more_than_half_of_the_flops(
    trained: dict[str, float],
) -> None:
    """Of three layers the first reads all; predictors are included."""
    assert trained["f1"] >= 0.97
    assert trained["share"] <= 0.55


def test_skimming_costs_next_to_no_answers(trained: dict[str, float]) -> None:
    assert trained["f1"] >= trained["f1_all"] - 0.01
    assert trained["share_all"] > 1.0  # where all blocks stay, predictors come on top
