"""The file of a benchmark's rows, which may depend on the processor."""

from __future__ import annotations

from pathlib import Path

import torch

from fewer.kernels.cpu.library import Isa, best_isa

__all__ = ["results_path"]


def results_path(stem: str) -> Path:
    """Return the file of rows of this processor: with AMX another one."""
    suffix = "_amx" if best_isa(torch.int8) is Isa.AMX_INT8 else ""
    return Path(f"benchmarks/results/{stem}{suffix}.jsonl")
