"""Fewer tokens: one paper a file."""

from __future__ import annotations

from fewer.methods.pruning.block_skim import BlockSkim
from fewer.methods.pruning.length_adaptive import LengthAdaptive
from fewer.methods.pruning.ltp import LTP
from fewer.methods.pruning.power_bert import PoWERBERT
from fewer.methods.pruning.spatten import SpAtten
from fewer.methods.pruning.training_free import TrainingFree

__all__ = ["LTP", "BlockSkim", "LengthAdaptive", "PoWERBERT", "SpAtten", "TrainingFree"]
