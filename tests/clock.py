"""A clock that only tests move, so that what is timed takes exactly as long as it says."""

from __future__ import annotations

from types import SimpleNamespace

import pytest


class Clock:
    """Seconds that pass when `sleep` is called, and at no other time."""

    def __init__(self) -> None:
        self.now = 0.0

    def read(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def install(self, monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
        """Let these modules, which `import time`, read this clock."""
        names = ("perf_counter", "process_time", "monotonic")
        fake = SimpleNamespace(sleep=self.sleep, **dict.fromkeys(names, self.read))
        for module in modules:
            monkeypatch.setattr(f"{module}.time", fake)
