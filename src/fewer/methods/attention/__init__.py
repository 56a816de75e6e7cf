"""Fewer pairs: one paper a file."""

from __future__ import annotations

from fewer.methods.attention.big_bird import BigBird
from fewer.methods.attention.deformer import DeFormer
from fewer.methods.attention.longformer import Longformer

__all__ = ["BigBird", "DeFormer", "Longformer"]
