"""Where the modules of each architecture are: references into the model, never copies."""

from __future__ import annotations

from fewer.backbones.base import Backbone
from fewer.backbones.registry import bind, supported

__all__ = ["Backbone", "bind", "supported"]
