"""The table of the laws: methods, families of models and kernels.

By default a law runs over a part of the cross (`law_of_methods`, `law_of_families`) in which every
method, family and kernel has a row; the full cross runs with `-m "slow or not slow"`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import fewer
from fewer import LTP, Decision, Dense, Method, Policy, Site, Trace, View
from fewer.core.stack import StackPolicy
from fewer.kernels import KERNELS as _KERNELS
from fewer.kernels.cpu.library import unavailable_reason
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
    ProbeExit,
    RightTool,
)
from fewer.methods.exits.probe_exit import ProbeExitPolicy
from fewer.methods.pruning import (
    TRBERT,
    BlockSkim,
    LengthAdaptive,
    LinearShortcut,
    SpAtten,
    TrainingFree,
    Transkimmer,
)
from fewer.methods.pruning.lexical import LexicalPolicy
from fewer.methods.pruning.linear_shortcut import LinearShortcutPolicy
from fewer.methods.pruning.training_free import TrainingFreePolicy
from tests.contract.policies import ByState, Drop, Freeze, Nobody, Retain, Together
from tests.tiny import FAMILIES, SHARING, has_task, tiny

TASKS = ("SequenceClassification", "TokenClassification", "QuestionAnswering")
TEXTS, TAGS, SPANS = TASKS


@dataclass(frozen=True)
class Case:
    """A method of the table, the models that it needs, and what may become of their tokens."""

    method: Method
    task: str | None = None  # of the model's head; None: any
    may_drop: bool = False
    may_freeze: bool = False
    restores: bool = False  # whether pruned tokens may still be answers
    has_exits: bool = False
    has_pattern: bool = False  # refused by models that have a pattern of their own
    prunes_heads: bool = False  # refused by them too; a head is then a text to the kernel

    @property
    def tasks(self) -> tuple[str, ...]:
        """List the tasks that the method runs on."""
        return TASKS if self.task is None else (self.task,)

    def runs_on(self, backbone: str) -> bool:
        """Whether the method may be attached to models of a family."""
        if self.task is not None and not has_task(backbone, self.task):
            return False
        return not ((self.has_pattern or self.prunes_heads) and backbone in PATTERNED)


LTP_02 = LTP(final_threshold=0.2)
LTP_01 = LTP(final_threshold=0.1)
BIG_BIRD = BigBird(block_size=2, num_random_blocks=0)

METHODS = {
    "dense": Case(Dense()),
    "ltp": Case(LTP_02, may_drop=True),
    "ltp-restoring": Case(LTP(final_threshold=0.2, restore=True), may_drop=True, restores=True),
    "ltp-output": Case(LTP(final_threshold=0.2, soft_rule="output"), may_drop=True),
    "ltp-reference": Case(LTP(final_threshold=0.12, reference_length=16), may_drop=True),
    "training-free": Case(TrainingFree(), may_drop=True, may_freeze=True),
    "training-free-cls": Case(
        TrainingFree(rule="cls", merge=False), may_drop=True, may_freeze=True
    ),
    "training-free-value": Case(TrainingFree(rule="value", only_first_last=False), may_drop=True),
    "linear-shortcut": Case(LinearShortcut(layer=1, shortest=4), may_drop=True, restores=True),
    "linear-shortcut-and-ltp": Case(
        Stack((LTP_01, LinearShortcut(layer=1, shortest=2))), may_drop=True
    ),
    "training-free-lexical": Case(
        TrainingFree(rule="lexical"), TEXTS, may_drop=True, may_freeze=True
    ),
    "drop-middle": Case(Drop(site=Site.MIDDLE), may_drop=True),
    "drop-after": Case(Drop(site=Site.AFTER), may_drop=True),
    "freeze": Case(Freeze(), may_freeze=True),
    "freeze-after": Case(Freeze(site=Site.AFTER), may_freeze=True),
    "together": Case(Together(), may_drop=True, may_freeze=True),
    "by-state": Case(ByState(), may_drop=True, may_freeze=True),
    "nobody": Case(Nobody(), may_drop=True),
    "right-tool": Case(RightTool(), TEXTS, has_exits=True),
    "deebert": Case(DeeBERT(), TEXTS, has_exits=True),
    "fastbert": Case(FastBERT(), TEXTS, has_exits=True),
    "pabee": Case(PABEE(), TEXTS, has_exits=True),
    "probe-exit": Case(ProbeExit(), TEXTS, has_exits=True, may_freeze=True),
    "probe-exit-of-tags": Case(ProbeExit(), TAGS, has_exits=True),
    "berxit": Case(BERxiT(), TEXTS, has_exits=True),
    "patient-confidence": Case(
        EarlyExit(criterion="patient_confidence", head="linear", patience=2), TEXTS, has_exits=True
    ),
    "magic-pyramid": Case(MagicPyramid(pruning=LTP_02), TEXTS, may_drop=True, has_exits=True),
    "exits-and-drops": Case(
        Stack((EarlyExit(layers=(2,)), Drop(site=Site.AFTER))), TEXTS, may_drop=True, has_exits=True
    ),
    "sentee": Case(SENTEE(), TAGS, has_exits=True),
    "tokee": Case(TOKEE(window=3), TAGS, may_freeze=True, has_exits=True),
    "tokee-own-norm": Case(TOKEE(window=1, keep_norm=False), TAGS, may_freeze=True, has_exits=True),
    "tokee-and-drops": Case(
        Stack((TOKEE(window=3), Drop(share=0.1))),
        TAGS,
        may_drop=True,
        may_freeze=True,
        has_exits=True,
    ),
    "block-skim": Case(BlockSkim(block=4), SPANS, may_drop=True),
    "block-skim-first": Case(BlockSkim(block=8, sees="first"), SPANS, may_drop=True),
    "block-skim-whole": Case(BlockSkim(block=4, sees="whole"), SPANS, may_drop=True),
    "block-skim-states": Case(BlockSkim(block=4, sees="states"), SPANS, may_drop=True),
    "block-skim-states-prescreen": Case(
        BlockSkim(block=4, sees="states", prescreen=True), SPANS, may_drop=True
    ),
    "skim-states-and-ltp": Case(
        Stack((LTP_01, BlockSkim(block=4, sees="states"))), SPANS, may_drop=True
    ),
    "skim-and-ltp": Case(Stack((LTP_01, BlockSkim(block=4))), SPANS, may_drop=True),
    "skim-and-freeze": Case(
        Stack((Freeze(), BlockSkim(block=4))), SPANS, may_drop=True, may_freeze=True
    ),
    "span-exit": Case(EarlyExit(), SPANS, has_exits=True),
    "span-right-tool": Case(RightTool(), SPANS, has_exits=True),
    "span-pyramid": Case(MagicPyramid(pruning=LTP_02), SPANS, may_drop=True, has_exits=True),
    "power-bert": Case(Retain(), may_drop=True),
    "power-bert-absolute": Case(Retain(counts="absolute"), may_drop=True),
    "power-bert-and-ltp": Case(Stack((Retain(), LTP_01)), may_drop=True),
    "length-adaptive": Case(LengthAdaptive(drop=0.5), may_drop=True, restores=True),
    "length-adaptive-and-ltp": Case(Stack((LengthAdaptive(drop=0.5), LTP_01)), may_drop=True),
    "deformer": Case(DeFormer(lower=1), SPANS),
    "deformer-and-ltp": Case(Stack((DeFormer(lower=2), LTP_02)), SPANS, may_drop=True),
    "longformer": Case(Longformer(attention_window=4), has_pattern=True),
    "longformer-and-ltp": Case(
        Stack((Longformer(attention_window=6), LTP_02)), may_drop=True, has_pattern=True
    ),
    "longformer-and-skim": Case(
        Stack((Longformer(attention_window=4), BlockSkim(block=4))),
        SPANS,
        may_drop=True,
        has_pattern=True,
    ),
    "longformer-deformer": Case(
        Stack((Longformer(attention_window=4), DeFormer(lower=1))), SPANS, has_pattern=True
    ),
    "spatten": Case(SpAtten(token_ratios=(0.4, 0.8)), may_drop=True),
    "spatten-heads": Case(
        SpAtten(token_ratios=(0.3, 0.6), head_ratios=(0.7, 0.7)), may_drop=True, prunes_heads=True
    ),
    "spatten-and-ltp": Case(Stack((SpAtten(token_ratios=(0.3, 0.5)), LTP_02)), may_drop=True),
    "transkimmer": Case(Transkimmer(), may_drop=True),
    "transkimmer-and-ltp": Case(Stack((LTP_02, Transkimmer())), may_drop=True),
    "tr-bert": Case(TRBERT(), may_drop=True),
    "tr-bert-and-ltp": Case(Stack((LTP_02, TRBERT())), may_drop=True),
    "big-bird": Case(BIG_BIRD, has_pattern=True),
    "big-bird-exits": Case(Stack((BIG_BIRD, EarlyExit())), TEXTS, has_exits=True, has_pattern=True),
    "big-bird-drops": Case(Stack((BIG_BIRD, Drop())), may_drop=True, has_pattern=True),
}
THRESHOLDS = {"entropy": 0.8, "probability": 0.5, "patience": 1.0, "learned": 0.5, "skim": 1.0}
THRESHOLD = 0.75  # of the other criteria
SPREAD = 0.7  # of the heads' random weights: their doubts are far apart
DEEPEST = 8  # layers, no fewer than any model in these tests has
BACKBONES = tuple(FAMILIES)
PATTERNED = ("longformer", "big-bird")  # families with a pattern in every layer
# that of GPUs has tests of its own (tests/unit/kernels/gpu, tests/gpu)
KERNELS = tuple(
    name
    for name in _KERNELS
    if name != "gpu" and (name != "native" or unavailable_reason() is None)
)

# The families that all methods run over by default, and the methods that all families run over.
CORE_FAMILIES = ("bert", "albert", "modernbert", "longformer")
CORE_METHODS = ("dense", "ltp", "freeze", "fastbert", "block-skim")

every_method = pytest.mark.parametrize("method", METHODS)
every_family = pytest.mark.parametrize("backbone", BACKBONES)
every_backbone = pytest.mark.parametrize(  # of the others every row is slow
    "backbone",
    [pytest.param(name, marks=pytest.mark.slow if name in SHARING else ()) for name in BACKBONES],
)
core_backbones = pytest.mark.parametrize(  # the others are slow
    "backbone",
    [
        pytest.param(name, marks=() if name in CORE_FAMILIES else pytest.mark.slow)
        for name in BACKBONES
    ],
)
every_kernel = pytest.mark.parametrize("kernel", KERNELS)


def law_of_methods(methods: Iterable[str] = METHODS, *, kernels: bool = False) -> Any:
    """Run a law over every method in the core families and the core methods in every family.

    The rest of the cross is marked slow, and so are families that share layers with others, but for
    one core method in turn. With `kernels`, the core methods in the core families run on every
    kernel, and each other pair on one kernel in turn.
    """
    return _cross(methods, len(CORE_FAMILIES), kernels)


def law_of_families(methods: Iterable[str] = METHODS, *, kernels: bool = False) -> Any:
    """Run a law over the core methods in every family and each other method in one core family.

    The rest of the cross is marked slow, and kernels are as in `law_of_methods`.
    """
    return _cross(methods, 1, kernels)


def _cross(methods: Iterable[str], families: int, kernels: bool) -> Any:
    """Parametrize by method, backbone and kernel, methods outside the core by some `families`."""
    rows = []
    for number, method in enumerate(methods):
        backbones = [name for name in BACKBONES if METHODS[method].runs_on(name)]
        core = [name for name in CORE_FAMILIES if name in backbones]
        in_turn = [core[(number + step) % len(core)] for step in range(len(core))][:families]
        for backbone in backbones:
            default = method in CORE_METHODS or backbone in in_turn
            if backbone in SHARING:
                default = method == method_in_turn(backbone, methods)
            if not kernels:
                rows.append(_row(default, method, backbone))
                continue
            for kernel in KERNELS:
                every = method in CORE_METHODS and backbone in CORE_FAMILIES
                shift = core.index(backbone) if backbone in core else BACKBONES.index(backbone)
                own = kernel == KERNELS[(number + shift) % len(KERNELS)]
                rows.append(_row(default and (every or own), method, backbone, kernel))
    return pytest.mark.parametrize(("method", "backbone", "kernel")[: 2 + kernels], rows)


def method_in_turn(backbone: str, methods: Iterable[str] = METHODS) -> str | None:
    """Return the core method that a family which shares its layers runs by default, of some."""
    core = [name for name in CORE_METHODS if name in methods and METHODS[name].runs_on(backbone)]
    return core[BACKBONES.index(backbone) % len(core)] if core else None


def _row(default: bool, *names: str) -> Any:
    return pytest.param(*names, marks=() if default else pytest.mark.slow)


def read(model: Any, batch: dict[str, Tensor], apply: str = "compact") -> tuple[Tensor, Trace]:
    """Read a batch without gradients: the logits and the trace."""
    with torch.no_grad(), fewer.applying(model, apply), fewer.record() as traces:
        logits = fewer.attachment(model).head.get_logits(model(**batch))
    (trace,) = traces
    return logits, trace


def build(
    method: str,
    backbone: str,
    task: str = TEXTS,
    sizes: Mapping[str, int] | None = None,
    **options: Any,
) -> Any:
    """Build a tiny model of the task that a method of the table needs, with its exits open."""
    case = METHODS[method]
    model = tiny(backbone, case.task or task, **(sizes or {}))
    return open_exits(fewer.attach(model, case.method, **options))


def open_exits(model: Any) -> Any:
    """Draw what a model's policy learned, so that texts differ and some of them exit."""
    policy = fewer.attachment(model).policy
    if policy.operating_points() is not None:
        torch.manual_seed(5)
        with torch.no_grad():
            for name, parameter in policy.named_parameters():
                if "threshold" not in name:  # what LTP learns
                    parameter.normal_(std=SPREAD)
            for part in policy.modules():
                if isinstance(part, TrainingFreePolicy):
                    part.threshold.fill_(1.6)  # above the mean score of a text
                if isinstance(part, ProbeExitPolicy):
                    part.spread.fill_(0.5 if part.of_tokens else 5.0)
                if isinstance(part, LinearShortcutPolicy):
                    for ends in (part.pruned_ends, part.kept_ends):
                        ends.weight.normal_(std=0.3)
                        ends.bias.normal_()
                    part.error_weight.normal_()
                if isinstance(part, LexicalPolicy):
                    part.idf.uniform_()
                    part.threshold.fill_(1.1)
        fewer.set_threshold(model, threshold=THRESHOLDS.get(_criterion(policy), THRESHOLD))
    return model


def _criterion(policy: Any) -> str:
    """Name the criterion of the policy that a threshold sets, in a stack the first of them."""
    method = next(part.method for part in policy.modules() if _has_threshold(part))
    return "skim" if isinstance(method, BlockSkim) else str(getattr(method, "criterion", ""))


def _has_threshold(module: Any) -> bool:
    return (
        isinstance(module, Policy)
        and not isinstance(module, StackPolicy)
        and module.operating_points() is not None
    )


def counts(trace: Trace) -> Tensor:
    """Stack the counts of all layers, zeros for layers that no token entered, and `head_flops`."""
    rows = [torch.stack([layer.keys, layer.queries, layer.read]) for layer in trace.layers]
    rows += [torch.zeros(3, trace.grid[0])] * (DEEPEST - len(rows))
    flops = torch.zeros_like(rows[0][0]) if trace.head_flops is None else trace.head_flops
    return torch.cat([torch.stack(rows), flops.expand(1, 3, -1)])


@contextmanager
def watched(model: Any) -> Iterator[list[tuple[View, Decision | None]]]:
    """Collect the views and decisions of an attached model's policy."""
    policy, steps = fewer.attachment(model).policy, []
    decide = policy.decide

    def decide_and_record(view: View) -> Decision | None:
        steps.append((view, decide(view)))
        return steps[-1][1]

    policy.decide = decide_and_record
    try:
        yield steps
    finally:
        del policy.decide
