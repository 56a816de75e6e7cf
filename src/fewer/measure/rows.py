"""Result rows: what was measured, with all that is needed to measure it again."""

from __future__ import annotations

import json
import platform
import shlex
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

    from fewer.core.policy import Method

__all__ = ["append_row", "describe", "provenance", "read_results"]


def provenance() -> dict[str, Any]:
    """Say when, by which command, with which versions, on which processor and how many threads."""
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
        "processor": _processor(),
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
    of `fewer.inference`).
    """
    from fewer.config import method_to
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


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
