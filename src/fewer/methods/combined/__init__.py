"""Methods made of others."""

from __future__ import annotations

from fewer.core.stack import Stack
from fewer.methods.combined.magic_pyramid import MagicPyramid

__all__ = ["MagicPyramid", "Stack"]
