"""Packed tokens without a model, and models whose texts exit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import fewer
from fewer import Site, Trace, View
from fewer.core.cost import LayerCost, ModelSpec, Task
from fewer.core.evidence import NO_EVIDENCE
from fewer.core.learning import TrainingBatch
from fewer.core.packed import Packed, plan
from fewer.core.phase import INFERENCE, Phase
from fewer.kernels import KERNELS
from tests.tiny import tiny

LENGTHS = (4, 1, 3)
WIDTH = 8


def spec(labels: int = 3, task: Task = Task.TEXT, layers: int = 3, width: int = WIDTH) -> ModelSpec:
    cost = LayerCost(query=1, key_value=2, output=1, ffn=8, pair=4, score=2)
    return ModelSpec(layers, width, 2, 0.0, (cost,) * layers, labels, task)


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
    start: Packed | None = None,
    phase: Phase = INFERENCE,
    state: Any = None,
) -> View:
    """Build the view of a policy; `start` are the original tokens, where some were pruned."""
    start = tokens if start is None else start
    lengths = start.placement.lengths
    outputs = list(exit_outputs)
    trace = Trace(tokens.grid, start.slot.device, lengths, exit_outputs=outputs, real=start.slot)
    place = layer, layers, Site.AFTER, tokens, NO_EVIDENCE, lengths, trace, phase
    return View(*place, KERNELS["reference"], state=state)


def training_batch(
    logits: Tensor, labels: Tensor | None, *exit_outputs: Any, step: int = 0, **phase: Any
) -> Any:
    """Build the batch of a classifier or tagger from the outputs of its exits and its head."""
    trace = Trace(tuple(logits.shape[:2]), logits.device, exit_outputs=list(exit_outputs))
    settings = {"name": "any", "apply": "compact", "trains": "all", "epochs": 1} | phase
    batch_phase = Phase(learning_rate=1e-3, **settings)
    return TrainingBatch(
        trace, batch_phase, step, logits, labels, torch.nn.functional.cross_entropy
    )


def opened(
    method: Any, threshold: float | None = None, task: str = "Sequence", **settings: Any
) -> Any:
    """Attach a method with random heads to a tiny model, and set its threshold.

    The heads' weights are large, so that some answers are certain and others are not.
    """
    model = tiny(settings.pop("backbone", "bert"), f"{task}Classification", **settings)
    torch.manual_seed(1)
    policy = fewer.attachment(fewer.attach(model, method)).policy
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(4.0)
    if threshold is not None:
        policy.operating_points().value.fill_(threshold)
    return model


def span_model(method: Any, threshold: float | None = None, backbone: str = "bert") -> Any:
    """Attach a method to a model of questions, with heads so strong that some are certain."""
    model = tiny(backbone, "QuestionAnswering", layers=4)
    torch.manual_seed(1)
    policy = fewer.attachment(fewer.attach(model, method)).policy
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "heads" in name:
                parameter.mul_(6.0)
    if threshold is not None:
        policy.operating_points().value.fill_(threshold)
    return model


def half_open(
    method: Any, batch: dict[str, Tensor], task: str = "Sequence", **settings: Any
) -> Any:
    """Attach a method at the threshold at which the depths of a batch's tokens differ most."""
    model = opened(method, None, task, **settings)
    points = fewer.attachment(model).policy.operating_points()

    def count_depths(threshold: float) -> int:
        points.value.fill_(threshold)
        depths = read(model, batch)[1].layers_read
        is_full = bool((depths == fewer.attachment(model).spec.num_layers).any())
        return is_full + 2 * len(depths.unique()) + sum(len(row.unique()) for row in depths)

    is_integer = all(value == int(value) for value in points.path)
    evenly = torch.cat((torch.linspace(0.02, 1.0, 50), torch.linspace(0.98, 1.0, 100)))
    path = points.path if is_integer else evenly.tolist()  # untrained heads are uncertain
    points.value.fill_(max(path, key=count_depths))
    return model


def read(model: Any, batch: dict[str, Tensor], apply: str = "compact") -> tuple[Tensor, Trace]:
    """Run a batch without gradients: the logits and the trace."""
    with torch.no_grad(), fewer.applying(model, apply), fewer.record() as traces:
        logits = model(**batch).logits
    (trace,) = traces
    return logits, trace
