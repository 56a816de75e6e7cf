"""The table that every law runs over: methods x backbones x kernels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import fewer
from fewer import LTP, Decision, Dense, Site, Trace, View
from fewer.core.stack import StackPolicy
from fewer.hf.task_heads import logits_of
from fewer.kernels import KERNELS as _KERNELS
from fewer.kernels import missing
from fewer.methods.attention import BigBird, DeFormer, Longformer
from fewer.methods.combined import MagicPyramid, Stack
from fewer.methods.exits import (
    PABEE,
    SENTEE,
    TOKEE,
    BERxiT,
    DeeBERT,
    EarlyExit,
    FastBERT,
    RightTool,
)
from fewer.methods.pruning import BlockSkim
from tests.contract.policies import ByState, Drop, Freeze, Nobody, Together
from tests.tiny import FAMILIES, tiny

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
    "right-tool": RightTool(),
    "deebert": DeeBERT(),
    "fastbert": FastBERT(),
    "pabee": PABEE(),
    "berxit": BERxiT(),
    "patient-confidence": EarlyExit(criterion="patient_confidence", head="linear", patience=2),
    "magic-pyramid": MagicPyramid(pruning=LTP(final_threshold=0.2)),
    "exits-and-drops": Stack((EarlyExit(layers=(2,)), Drop(site=Site.AFTER))),
    "sentee": SENTEE(),
    "tokee": TOKEE(window=3),
    "tokee-own-norm": TOKEE(window=1, keep_norm=False),
    "tokee-and-drops": Stack((TOKEE(window=3), Drop(share=0.1))),
    "block-skim": BlockSkim(block=4),
    "block-skim-first": BlockSkim(block=8, sees="first"),
    "block-skim-whole": BlockSkim(block=4, sees="whole"),
    "block-skim-states": BlockSkim(block=4, sees="states"),
    "skim-states-and-ltp": Stack((LTP(final_threshold=0.1), BlockSkim(block=4, sees="states"))),
    "skim-and-ltp": Stack((LTP(final_threshold=0.1), BlockSkim(block=4))),
    "skim-and-freeze": Stack((Freeze(), BlockSkim(block=4))),
    "span-exit": EarlyExit(),
    "span-right-tool": RightTool(),
    "span-pyramid": MagicPyramid(pruning=LTP(final_threshold=0.2)),
    "deformer": DeFormer(lower=1),
    "deformer-and-ltp": Stack((DeFormer(lower=2), LTP(final_threshold=0.2))),
    "longformer": Longformer(attention_window=4),
    "longformer-and-ltp": Stack((Longformer(attention_window=6), LTP(final_threshold=0.2))),
    "longformer-and-skim": Stack((Longformer(attention_window=4), BlockSkim(block=4))),
    "longformer-deformer": Stack((Longformer(attention_window=4), DeFormer(lower=1))),
    "big-bird": BigBird(block_size=2, num_random_blocks=0),
    "big-bird-exits": Stack((BigBird(block_size=2, num_random_blocks=0), EarlyExit())),
    "big-bird-drops": Stack((BigBird(block_size=2, num_random_blocks=0), Drop())),
}
PRUNING = [name for name in METHODS if name != "dense"]
OPENED = {"entropy": 0.8, "probability": 0.5, "patience": 1.0, "learned": 0.5, "skim": 1.0}
USUALLY = 0.75  # where the others are opened
SPREAD = 0.7  # of the heads' random weights: their doubts are far apart
DEEPEST = 8  # layers, no fewer than any model in these tests has
BACKBONES = tuple(FAMILIES)
PATTERNED = ("longformer", "big-bird")  # families with a pattern in every layer, and methods
KERNELS = tuple(name for name in _KERNELS if name != "native" or missing() is None)
TASKS = ("SequenceClassification", "TokenClassification", "QuestionAnswering")

every_method = pytest.mark.parametrize("method", METHODS)
every_backbone = pytest.mark.parametrize("backbone", BACKBONES)
every_kernel = pytest.mark.parametrize("kernel", KERNELS)


def read(model: Any, batch: dict[str, Tensor], apply: str = "compact") -> tuple[Tensor, Trace]:
    """Read a batch without gradients: the logits and the trace."""
    with torch.no_grad(), fewer.applying(model, apply), fewer.record() as traces:
        logits = logits_of(model(**batch), fewer.attachment(model).shape.answers)
    (trace,) = traces
    return logits, trace


def made(
    name: str,
    backbone: str,
    task: str = TASKS[0],
    sizes: Mapping[str, int] | None = None,
    **how: Any,
) -> Any:
    """Build a tiny model with a method of the table, its exits open; of the task that it wants.

    Skips methods that give a pattern to a model that has its own: these are refused.
    """
    if backbone in PATTERNED and name.startswith(PATTERNED):
        pytest.skip("the model has a pattern of its own")
    if "tee" in name or "tokee" in name:
        task = "TokenClassification"
    elif any(kind in name for kind in ("span", "skim", "deformer")):
        task = "QuestionAnswering"
    elif _exits(METHODS[name]):
        task = "SequenceClassification"
    return opened(fewer.attach(tiny(backbone, task, **(sizes or {})), METHODS[name], **how))


def opened(model: Any) -> Any:
    """Let what a model's policy learned say different things of different texts; some leave."""
    policy = fewer.attachment(model).policy
    if policy.dial() is not None:
        torch.manual_seed(5)
        with torch.no_grad():
            for name, parameter in policy.named_parameters():
                if "threshold" not in name:  # what LTP learns
                    parameter.normal_(std=SPREAD)
        fewer.set_threshold(model, threshold=OPENED.get(_criterion(policy), USUALLY))
    return model


def _exits(method: Any) -> bool:
    return isinstance(method, EarlyExit | MagicPyramid | Stack)


def _criterion(policy: Any) -> str:
    own = next(one for one in policy.modules() if hasattr(one, "dial") and _turns(one))
    return (
        "skim" if isinstance(own.method, BlockSkim) else str(getattr(own.method, "criterion", ""))
    )


def _turns(policy: Any) -> bool:
    return not isinstance(policy, StackPolicy) and policy.dial() is not None


def counts(trace: Trace) -> Tensor:
    """Stack what was counted, with zeros for layers that nobody read, and `head_flops`."""
    rows = [torch.stack([x.keys, x.queries, x.read]) for x in trace.layers]
    rows += [torch.zeros_like(rows[0])] * (DEEPEST - len(rows))
    spent = torch.zeros_like(rows[0][0]) if trace.head_flops is None else trace.head_flops
    return torch.cat([torch.stack(rows), spent.expand(1, 3, -1)])


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
