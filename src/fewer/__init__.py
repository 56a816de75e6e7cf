"""fewer: fine-tuned Transformer encoders that read less and answer the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fewer.version import __version__

if TYPE_CHECKING:
    from fewer.answerer import answer
    from fewer.combined import MagicPyramid
    from fewer.core.decision import Decision, Fate, Site, View
    from fewer.core.policy import Dense, Method, Phase, Policy
    from fewer.core.trace import Trace, record
    from fewer.exits import EarlyExit
    from fewer.folders import load, save
    from fewer.inference import deoptimize, optimize
    from fewer.methods import METHODS
    from fewer.models import adjust, applying, attach, attachment, detach
    from fewer.prediction import predict
    from fewer.pruning.ltp import LTP
    from fewer.tagger import tag
    from fewer.training.fit import Schedule, dense_phase, fit

_HOMES = {
    "LTP": "fewer.pruning.ltp",
    "METHODS": "fewer.methods",
    "Decision": "fewer.core.decision",
    "Dense": "fewer.core.policy",
    "EarlyExit": "fewer.exits",
    "Fate": "fewer.core.decision",
    "MagicPyramid": "fewer.combined",
    "Method": "fewer.core.policy",
    "Phase": "fewer.core.policy",
    "Policy": "fewer.core.policy",
    "Schedule": "fewer.training.fit",
    "Site": "fewer.core.decision",
    "Trace": "fewer.core.trace",
    "View": "fewer.core.decision",
    "adjust": "fewer.models",
    "answer": "fewer.answerer",
    "applying": "fewer.models",
    "attach": "fewer.models",
    "attachment": "fewer.models",
    "deoptimize": "fewer.inference",
    "dense_phase": "fewer.training.fit",
    "detach": "fewer.models",
    "fit": "fewer.training.fit",
    "load": "fewer.folders",
    "optimize": "fewer.inference",
    "predict": "fewer.prediction",
    "record": "fewer.core.trace",
    "save": "fewer.folders",
    "tag": "fewer.tagger",
}

__all__ = [
    "LTP",
    "METHODS",
    "Decision",
    "Dense",
    "EarlyExit",
    "Fate",
    "MagicPyramid",
    "Method",
    "Phase",
    "Policy",
    "Schedule",
    "Site",
    "Trace",
    "View",
    "__version__",
    "adjust",
    "answer",
    "applying",
    "attach",
    "attachment",
    "dense_phase",
    "deoptimize",
    "detach",
    "fit",
    "load",
    "optimize",
    "predict",
    "record",
    "save",
    "tag",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that importing fewer costs next to nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fewer' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
