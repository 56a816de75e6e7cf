"""Two processes train one model: the same weights in both, one folder, one that resumes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def _run(folder, rows=160):
    """Train in two processes on the CPU; return what each of them holds and has saved."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["-m", "tests.slow.ddp_run", str(folder), str(rows)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OMP_NUM_THREADS": "1"}
    environment |= {"ACCELERATE_USE_CPU": "1", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return [(folder.parent / f"rank-{rank}").read_text().split() for rank in (0, 1)]


def test_processes_end_at_the_same_weights_and_resume_to_them(tmp_path):
    folder = tmp_path / "run"
    (first, saved), (second, saved_too) = _run(folder)
    assert first == second == saved == saved_too
    shutil.rmtree(folder / "model")
    newest = max(folder.glob("[0-9]-*"))
    shutil.rmtree(newest / "model")
    assert _run(folder)[0][0] == first  # the last phase is trained again
