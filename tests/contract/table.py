"""The table that every law runs over: methods x backbones x kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import fewer
from fewer import LTP, Decision, Dense, Site, Trace, View
from fewer.kernels import KERNELS as _KERNELS
from fewer.kernels import missing
from tests.contract.policies import ByState, Drop, Freeze, Nobody, Together
from tests.tiny import FAMILIES

METHODS = {
    "dense": Dense(),
    "ltp": LTP(final_threshold=0.2),
    "ltp-output": LTP(final_threshold=0.2, soft_rule="output"),
    "ltp-reference": LTP(final_threshold=0.12, reference_length=16),
    "drop-middle": Drop(site=Site.MIDDLE),
    "drop-after": Drop(site=Site.AFTER),
    "freeze": Freeze(),
    "freeze-after": Freeze(site=Site.AFTER),
    "together": Together(),
    "by-state": ByState(),
    "nobody": Nobody(),
}
PRUNING = [name for name in METHODS if name != "dense"]
BACKBONES = tuple(FAMILIES)
KERNELS = tuple(name for name in _KERNELS if name != "native" or missing() is None)
TASKS = ("SequenceClassification", "TokenClassification")

every_method = pytest.mark.parametrize("method", METHODS)
every_backbone = pytest.mark.parametrize("backbone", BACKBONES)
every_kernel = pytest.mark.parametrize("kernel", KERNELS)


def read(model: Any, batch: dict[str, Tensor], apply: str = "compact") -> tuple[Tensor, Trace]:
    """Read a batch without gradients: the logits and the trace."""
    with torch.no_grad(), fewer.applying(model, apply), fewer.record() as traces:
        logits = model(**batch).logits
    (trace,) = traces
    return logits, trace


def counts(trace: Trace) -> Tensor:
    """Stack what was counted: `(L, 3, B)`."""
    return torch.stack([torch.stack([x.keys, x.queries, x.read]) for x in trace.layers])


@contextmanager
def watched(model: Any) -> Iterator[list[tuple[View, Decision | None]]]:
    """Collect what the policy of an attached model was shown, and what it said."""
    policy, seen = fewer.attachment(model).policy, []
    decide = policy.decide

    def watching(view: View) -> Decision | None:
        seen.append((view, decide(view)))
        return seen[-1][1]

    policy.decide = watching
    try:
        yield seen
    finally:
        del policy.decide
