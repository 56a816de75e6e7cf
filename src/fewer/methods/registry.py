"""The table of methods: adding one is adding a row."""

from __future__ import annotations

from fewer.core.policy import Dense, Method
from fewer.core.stack import Stack
from fewer.methods.attention import BigBird, DeFormer, Longformer
from fewer.methods.combined import MagicPyramid
from fewer.methods.exits import (
    PABEE,
    SENTEE,
    TOKEE,
    BERxiT,
    Cascade,
    DeeBERT,
    EarlyExit,
    FastBERT,
    ProbeExit,
    RightTool,
)
from fewer.methods.pruning import (
    LTP,
    TRBERT,
    BlockSkim,
    LengthAdaptive,
    LinearShortcut,
    PoWERBERT,
    SpAtten,
    TrainingFree,
    Transkimmer,
)

__all__ = ["METHODS"]

METHODS: dict[str, type[Method]] = {
    "dense": Dense,
    "ltp": LTP,
    "block_skim": BlockSkim,
    "training_free": TrainingFree,
    "spatten": SpAtten,
    "power_bert": PoWERBERT,
    "length_adaptive": LengthAdaptive,
    "linear_shortcut": LinearShortcut,
    "transkimmer": Transkimmer,
    "tr_bert": TRBERT,
    "deformer": DeFormer,
    "longformer": Longformer,
    "big_bird": BigBird,
    "early_exit": EarlyExit,
    "right_tool": RightTool,
    "deebert": DeeBERT,
    "fastbert": FastBERT,
    "pabee": PABEE,
    "berxit": BERxiT,
    "probe_exit": ProbeExit,
    "cascade": Cascade,
    "sentee": SENTEE,
    "tokee": TOKEE,
    "magic_pyramid": MagicPyramid,
    "stack": Stack,
}
