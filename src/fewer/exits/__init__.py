"""Fewer layers: heads, criteria and lessons as parts, then one paper a file."""

from __future__ import annotations

from fewer.exits.berxit import BERxiT
from fewer.exits.deebert import DeeBERT
from fewer.exits.early_exit import EarlyExit
from fewer.exits.fastbert import FastBERT
from fewer.exits.pabee import PABEE
from fewer.exits.right_tool import RightTool
from fewer.exits.sentee import SENTEE
from fewer.exits.tokee import TOKEE

__all__ = ["PABEE", "SENTEE", "TOKEE", "BERxiT", "DeeBERT", "EarlyExit", "FastBERT", "RightTool"]
