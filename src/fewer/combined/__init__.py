"""Methods made of others."""

from __future__ import annotations

from fewer.combined.magic_pyramid import MagicPyramid
from fewer.core.stack import Stack

__all__ = ["MagicPyramid", "Stack"]
