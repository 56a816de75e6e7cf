import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fewer.measure import memory

MEGABYTE = 1 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_that_is_freed_at_the_end_counts_too():
    grown = memory.peak_growth_mb(lambda: torch.ones(64 * MEGABYTE // 4).sum())
    assert 60 < grown < 90
    assert memory.peak_growth_mb(lambda: None) < 8


@pytest.mark.skipif(sys.platform == "win32", reason="has no module resource")
def test_elsewhere_memory_counts_beyond_the_most_that_was_ever_held(monkeypatch):
    most = iter([3 * MEGABYTE, 5 * MEGABYTE])  # in bytes, as macOS has it
    monkeypatch.setattr("resource.getrusage", lambda _: SimpleNamespace(ru_maxrss=next(most)))
    monkeypatch.setattr(memory, "_PROCESS", Path("/nowhere"))
    assert memory.peak_growth_mb(lambda: None) == 2


def test_memory_cannot_be_limited_elsewhere(monkeypatch):
    monkeypatch.setattr(memory, "_PROCESS", Path("/nowhere"))
    with pytest.raises(RuntimeError, match="Linux"):
        memory.limit_growth(1)
