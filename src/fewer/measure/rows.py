"""Result rows: what was measured, with all that is needed to measure it again."""

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
    from datasets import Dataset

    from fewer.core.policy import Method

__all__ = ["append_row", "describe", "provenance", "read_results"]


def provenance() -> dict[str, Any]:
    """Say when, by which command, which code and versions, on which machine and how many threads.

    `commit` is that of the checkout this package runs from, `None` for an installed one; `modified`
    says whether tracked files of it differed from the commit.
    """
    import torch
    import transformers

    from fewer.version import __version__

    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join([_program(), *sys.argv[1:]]),
        "versions": {
            "fewer": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        **_checkout(),
        "processor": _processor(),
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
) -> dict[str, Any]:
    """Begin a result row: everything but what the systems did.

    `table` holds the rows as they came (they are fingerprinted), `encoded` their tokens.
    `precision` and `kernels` are those of the model that is measured (`precision_of`, `kernels_of`
    of `fewer.hf.optimize`).
    """
    from fewer.hf.config import method_to
    from fewer.measure.evaluate import histogram
    from fewer.tasks.rows import data_hash

    return {
        "kind": kind,
        **provenance(),
        "seed": seed,
        "precision": precision,
        **({} if kernels is None else {"kernels": kernels}),
        "data": {"source": source, "hash": data_hash(table), "rows": len(table)},
        "model": model,
        "method": method_to(method),
        "max_length": max_length,
        "lengths": histogram(encoded["length"]),
    }


def append_row(row: dict[str, Any], path: Path) -> None:
    """Add one row to a JSON-lines file, making the file and its folder where they are missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


def read_results(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a JSON-lines file. Raises `ValueError` that names a broken line."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not a result row ({error})") from error
    return rows


def _program() -> str:
    name = Path(sys.argv[0]).name
    return "fewer" if name == "__main__.py" else name  # python -m fewer


def _checkout() -> dict[str, str | bool | None]:
    """Return the commit of the checkout whose `src` this package is in, and whether it is clean.

    A package installed below another project's checkout is none of that project's.
    """
    package = Path(__file__).resolve().parents[1]
    root, commit = _git(package, "rev-parse", "--show-toplevel"), None
    if root is not None and Path(root) / "src" == package.parent:
        commit = _git(package, "rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "modified": None}
    changed = _git(package, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "modified": changed != ""}


def _git(folder: Path, *words: str) -> str | None:
    """Return what git says of a folder; `None` without git, or outside of a checkout."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
