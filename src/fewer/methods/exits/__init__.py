"""Fewer layers: heads, criteria and lessons as parts, then one paper a file."""

from __future__ import annotations

from fewer.methods.exits.berxit import BERxiT
from fewer.methods.exits.cascade import Cascade
from fewer.methods.exits.deebert import DeeBERT
from fewer.methods.exits.early_exit import EarlyExit
from fewer.methods.exits.fastbert import FastBERT
from fewer.methods.exits.pabee import PABEE
from fewer.methods.exits.probe_exit import ProbeExit
from fewer.methods.exits.right_tool import RightTool
from fewer.methods.exits.sentee import SENTEE
from fewer.methods.exits.tokee import TOKEE

__all__ = [
    "PABEE",
    "SENTEE",
    "TOKEE",
    "BERxiT",
    "Cascade",
    "DeeBERT",
    "EarlyExit",
    "FastBERT",
    "ProbeExit",
    "RightTool",
]
