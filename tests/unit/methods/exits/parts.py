"""Packed tokens without a model, and models whose exits are open."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import fewer
from fewer import Site, Trace, View
from fewer.core.cost import LayerCost, ModelSpec
from fewer.core.packed import Packed, plan
from fewer.core.policy import Phase, TrainingBatch
from tests.tiny import tiny

LENGTHS = (4, 1, 3)
WIDTH = 8


def shape(labels: int = 3, answers: Any = "text", layers: int = 3, width: int = WIDTH) -> ModelSpec:
    cost = LayerCost(query=1, key_value=2, output=1, ffn=8, pair=4, score=2)
    return ModelSpec(layers, width, 2, 0.0, (cost,) * layers, labels, answers)


def packed(lengths: tuple[int, ...] = LENGTHS, width: int = WIDTH, seed: int = 0) -> Packed:
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    where = plan(mask, tuple(mask.shape), mask.device)
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(len(where.slot), width, generator=generator)
    return Packed.start(where, hidden, where.column, where.column == 0)


def view(
    tokens: Packed,
    layer: int = 0,
    layers: int = 3,
    exit_outputs: Any = (),
    seen: Packed | None = None,
) -> View:
    """Show tokens to a policy; `seen` are those that layer 0 has read, if there were more."""
    first = (tokens if seen is None else seen).slot
    trace = Trace(
        tokens.grid, first.device, readers=[(first, None)], exit_outputs=list(exit_outputs)
    )
    return View(layer, layers, Site.AFTER, tokens, trace)


def lesson(
    logits: Tensor, labels: Tensor | None, *exit_outputs: Any, step: int = 0, **phase: Any
) -> Any:
    """Make a lesson of a classifier or tagger from what its exits and its head said."""
    trace = Trace(tuple(logits.shape[:2]), logits.device, exit_outputs=list(exit_outputs))
    settings = {"name": "any", "apply": "compact", "trains": "all", "epochs": 1} | phase
    stage = Phase(learning_rate=1e-3, **settings)
    return TrainingBatch(trace, stage, step, logits, labels, torch.nn.functional.cross_entropy)


def opened(
    method: Any, threshold: float | None = None, task: str = "Sequence", **model: Any
) -> Any:
    """Attach a method with random heads to a tiny model, and set its threshold.

    The heads' weights are large, so that some answers are sure and others are not.
    """
    own = tiny(model.pop("backbone", "bert"), f"{task}Classification", **model)
    torch.manual_seed(1)
    fewer.attach(own, method)
    policy = fewer.attachment(own).policy
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(4.0)
    if threshold is not None:
        policy.dial().value.fill_(threshold)
    return own


def span_model(method: Any, threshold: float | None = None, backbone: str = "bert") -> Any:
    """Attach a method to a model of questions, its heads so strong that some answers are sure."""
    model = tiny(backbone, "QuestionAnswering", layers=4)
    torch.manual_seed(1)
    policy = fewer.attachment(fewer.attach(model, method)).policy
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "heads" in name:
                parameter.mul_(6.0)
    if threshold is not None:
        policy.dial().value.fill_(threshold)
    return model


def half_open(method: Any, batch: dict[str, Tensor], task: str = "Sequence", **model: Any) -> Any:
    """Attach a method at the threshold that parts the tokens of a batch most."""
    own = opened(method, None, task, **model)
    dial = fewer.attachment(own).policy.dial()

    def kinds(threshold: float) -> int:
        dial.value.fill_(threshold)
        depths = read(own, batch)[1].layers_read
        to_the_end = bool((depths == fewer.attachment(own).shape.num_layers).any())
        return to_the_end + 2 * len(depths.unique()) + sum(len(row.unique()) for row in depths)

    whole = all(value == int(value) for value in dial.grid)
    even = torch.cat((torch.linspace(0.02, 1.0, 50), torch.linspace(0.98, 1.0, 100)))
    grid = dial.grid if whole else even.tolist()  # untrained heads are in doubt
    dial.value.fill_(max(grid, key=kinds))
    return own


def read(model: Any, batch: dict[str, Tensor], apply: str = "compact") -> tuple[Tensor, Trace]:
    """Read a batch without gradients: the logits and the trace."""
    with torch.no_grad(), fewer.applying(model, apply), fewer.record() as traces:
        logits = model(**batch).logits
    (trace,) = traces
    return logits, trace
