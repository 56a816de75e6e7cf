"""Training to a stated score on a synthetic task, and going on after a real kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import fewer
from fewer._files.manifest import MANIFEST

SCRIPT = Path(__file__).parent / "needle.py"


def _share(found: dict[str, float]) -> float:
    return found["kept"] / found["dense"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    return _run(tmp_path_factory.mktemp("needle") / "run")


def _command(output: Path) -> list[str]:
    return [sys.executable, str(SCRIPT), str(output)]


def _run(output: Path) -> dict[str, float]:
    done = subprocess.run(_command(output), check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_ltp_finds_the_needle_with_fewer_flops(trained: dict[str, float]) -> None:
    """A token among 40 decides; a model that read the rest of them for nothing learns to stop."""
    assert trained["accuracy_dense"] >= 0.97
    assert trained["accuracy"] >= trained["accuracy_dense"] - 0.02
    assert _share(trained) <= 0.62


def test_the_target_share_is_met(trained: dict[str, float]) -> None:
    """The hard phase moves the scores a little, so the share drifts from 0.6, but not far."""
    assert _share(trained) == pytest.approx(0.6, abs=0.05)


def test_a_killed_run_goes_on_to_the_same_end(tmp_path: Path, trained: dict[str, float]) -> None:
    """Kill -9 in mid-phase, resume: same phases, and the same model but for the resumed steps."""
    output = tmp_path / "run"
    process = subprocess.Popen(
        _command(output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    limit = time.monotonic() + 300
    while not list(output.glob(f"0-dense/checkpoint-*/{MANIFEST}")):
        assert process.poll() is None, "training ended before it could be killed"
        assert time.monotonic() < limit
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    resumed = _run(output)
    assert resumed["accuracy"] == pytest.approx(trained["accuracy"], abs=0.03)
    model = fewer.load(output / "model")
    assert fewer.attachment(model).method == fewer.LTP(target=0.6, strength=1.0, epochs=(2, 2))
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
