"""fewer: fine-tuned Transformer encoders that read less and answer the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fewer.version import __version__

if TYPE_CHECKING:
    from fewer.certificate.calibrate import calibrate
    from fewer.core.decision import Decision, Fate, Site, View
    from fewer.core.needs import Needs
    from fewer.core.phase import Phase
    from fewer.core.policy import Dense, Method, Policy
    from fewer.core.trace import Trace, record
    from fewer.hf.attach import applying, attach, attachment, detach, set_threshold
    from fewer.hf.checkpoint import load, save
    from fewer.hf.optimize import deoptimize, optimize
    from fewer.inference.answer import answer
    from fewer.inference.classify import classify
    from fewer.inference.embed import embed
    from fewer.inference.predict import predict
    from fewer.inference.rank import rank
    from fewer.inference.tag import tag
    from fewer.methods.combined import MagicPyramid
    from fewer.methods.exits import EarlyExit
    from fewer.methods.pruning.ltp import LTP
    from fewer.methods.registry import METHODS
    from fewer.training.fit import Schedule, dense_phase, fit
    from fewer.training.prune import prune

_HOMES = {
    "LTP": "fewer.methods.pruning.ltp",
    "METHODS": "fewer.methods.registry",
    "Needs": "fewer.core.needs",
    "Decision": "fewer.core.decision",
    "Dense": "fewer.core.policy",
    "EarlyExit": "fewer.methods.exits",
    "Fate": "fewer.core.decision",
    "MagicPyramid": "fewer.methods.combined",
    "Method": "fewer.core.policy",
    "Phase": "fewer.core.phase",
    "Policy": "fewer.core.policy",
    "Schedule": "fewer.training.fit",
    "Site": "fewer.core.decision",
    "Trace": "fewer.core.trace",
    "View": "fewer.core.decision",
    "set_threshold": "fewer.hf.attach",
    "answer": "fewer.inference.answer",
    "applying": "fewer.hf.attach",
    "attach": "fewer.hf.attach",
    "attachment": "fewer.hf.attach",
    "calibrate": "fewer.certificate.calibrate",
    "deoptimize": "fewer.hf.optimize",
    "classify": "fewer.inference.classify",
    "dense_phase": "fewer.training.fit",
    "detach": "fewer.hf.attach",
    "embed": "fewer.inference.embed",
    "fit": "fewer.training.fit",
    "load": "fewer.hf.checkpoint",
    "optimize": "fewer.hf.optimize",
    "predict": "fewer.inference.predict",
    "prune": "fewer.training.prune",
    "rank": "fewer.inference.rank",
    "record": "fewer.core.trace",
    "save": "fewer.hf.checkpoint",
    "tag": "fewer.inference.tag",
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
    "Needs",
    "Phase",
    "Policy",
    "Schedule",
    "Site",
    "Trace",
    "View",
    "__version__",
    "answer",
    "applying",
    "attach",
    "attachment",
    "calibrate",
    "classify",
    "dense_phase",
    "deoptimize",
    "detach",
    "embed",
    "fit",
    "load",
    "optimize",
    "predict",
    "prune",
    "rank",
    "record",
    "save",
    "set_threshold",
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
