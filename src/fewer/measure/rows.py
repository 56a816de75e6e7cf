"""Result rows: measurements with everything needed to reproduce them."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

    from fewer.core.policy import Method

__all__ = ["append_row", "describe", "provenance", "read_results"]


def provenance() -> dict[str, Any]:
    """Return time, command, versions, commit, machine and number of threads.

    `commit` is that of the checkout that this package runs from, `None` for an installed one;
    `modified` is whether its tracked files differ from the commit.
    """
    import torch
    import transformers

    from fewer.version import __version__

    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join([_program_name(), *sys.argv[1:]]),
        "versions": {
            "fewer": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        **_checkout(),
        "processor": _processor_name(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "threads": torch.get_num_threads(),
    }


def describe(
    kind: str,
    *,
    model: str,
    method: Method,
    source: str,
    table: Dataset,
    encoded: Dataset,
    max_length: int,
    seed: int,
    precision: str = "fp32",
    kernels: str | None = None,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Return a result row without the results of systems.

    `table` holds the rows of the source, which are hashed, `encoded` their tokens. `precision` and
    `kernels` are those of the measured model (`precision_of`, `kernels_of` of `fewer.hf.optimize`).
    A `device` that is no CPU is named.
    """
    from fewer.hf.side_file import method_to
    from fewer.measure.evaluate import histogram
    from fewer.tasks.rows import data_hash

    return {
        "kind": kind,
        **provenance(),
        "seed": seed,
        "precision": precision,
        **({} if kernels is None else {"kernels": kernels}),
        **({} if device is None or device.type == "cpu" else {"device": _device_name(device)}),
        "data": {"source": source, "hash": data_hash(table), "rows": len(table)},
        "model": model,
        "method": method_to(method),
        "max_length": max_length,
        "lengths": histogram(encoded["length"]),
    }


def append_row(row: dict[str, Any], path: Path) -> None:
    """Append one row to a JSON-lines file; create the file and its folder if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


def read_results(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a JSON-lines file. Raises `ValueError` with the number of a broken line."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: a row must be JSON; got {error}.") from error
    return rows


def _device_name(device: torch.device) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _program_name() -> str:
    name = Path(sys.argv[0]).name
    return "fewer" if name == "__main__.py" else name  # python -m fewer


def _checkout() -> dict[str, str | bool | None]:
    """Return the commit of the checkout whose `src` holds this package, and if it is modified.

    A package installed inside the checkout of another project is not part of it.
    """
    package = Path(__file__).resolve().parents[1]
    root, commit = _git(package, "rev-parse", "--show-toplevel"), None
    if root is not None and Path(root) / "src" == package.parent:
        commit = _git(package, "rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "modified": None}
    status = _git(package, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "modified": status != ""}


def _git(folder: Path, *words: str) -> str | None:
    """Return the output of git in a folder; `None` without git, or outside a checkout."""
    try:
        process = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return process.stdout.strip()


def _processor_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
