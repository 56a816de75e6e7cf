"""Fewer pairs: one paper a file."""

from __future__ import annotations

from fewer.attention.deformer import DeFormer

__all__ = ["DeFormer"]
