"""Fewer tokens: one paper a file."""

from __future__ import annotations

from fewer.pruning.ltp import LTP

__all__ = ["LTP"]
