"""Adapters of each architecture: references to the modules of a model, never copies."""

from __future__ import annotations

from fewer.backbones.base import Backbone
from fewer.backbones.registry import bind, supported

__all__ = ["Backbone", "bind", "supported"]
