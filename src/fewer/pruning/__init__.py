"""Fewer tokens: one paper a file."""

from __future__ import annotations

from fewer.pruning.block_skim import BlockSkim
from fewer.pruning.ltp import LTP

__all__ = ["LTP", "BlockSkim"]
