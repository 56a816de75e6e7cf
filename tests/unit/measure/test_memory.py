import sys
from pathlib import Path

import pytest
import torch

from fewer.measure import memory

MEGABYTE = 1 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_that_is_freed_at_the_end_counts_too():
    grown = memory.growth_mb(lambda: torch.ones(64 * MEGABYTE // 4).sum())
    assert 60 < grown < 90
    assert memory.growth_mb(lambda: None) < 8


def test_elsewhere_it_is_said_that_it_cannot_be_measured(monkeypatch):
    monkeypatch.setattr(memory, "_OWN", Path("/nowhere"))
    with pytest.raises(RuntimeError, match="on Linux only"):
        memory.growth_mb(lambda: None)
