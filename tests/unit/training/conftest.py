"""Trainer collects garbage at the end of each run: let it not look through all that is imported."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def _young_garbage_only() -> Iterator[None]:
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
