"""Fewer pairs: one paper a file."""

from __future__ import annotations

from fewer.attention.big_bird import BigBird
from fewer.attention.deformer import DeFormer
from fewer.attention.longformer import Longformer

__all__ = ["BigBird", "DeFormer", "Longformer"]
