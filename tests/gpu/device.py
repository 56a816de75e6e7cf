"""The device that the laws of GPUs run on, and how many of their cases."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch

HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
DTYPES = (torch.bfloat16, torch.float16, torch.float32) if HAS_GPU else (torch.float32,)


def some(name: str, values: Iterable[Any], on_cpu: Iterable[Any]) -> Any:
    """Parametrize by all values on a GPU, by a few on the CPU."""
    return pytest.mark.parametrize(name, list(values if HAS_GPU else on_cpu))
