"""Fewer tokens: one paper a file."""

from __future__ import annotations

from fewer.methods.pruning.block_skim import BlockSkim
from fewer.methods.pruning.length_adaptive import LengthAdaptive
from fewer.methods.pruning.linear_shortcut import LinearShortcut
from fewer.methods.pruning.ltp import LTP
from fewer.methods.pruning.power_bert import PoWERBERT
from fewer.methods.pruning.spatten import SpAtten
from fewer.methods.pruning.tr_bert import TRBERT
from fewer.methods.pruning.training_free import TrainingFree
from fewer.methods.pruning.transkimmer import Transkimmer

__all__ = [
    "LTP",
    "TRBERT",
    "BlockSkim",
    "LengthAdaptive",
    "LinearShortcut",
    "PoWERBERT",
    "SpAtten",
    "TrainingFree",
    "Transkimmer",
]
