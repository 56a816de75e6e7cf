"""Methods made of others."""

from __future__ import annotations

from fewer.combined.magic_pyramid import MagicPyramid

__all__ = ["MagicPyramid"]
