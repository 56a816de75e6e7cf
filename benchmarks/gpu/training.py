"""One step of training: forward, backward and AdamW; padded, packed, and LTP's soft phase."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

import fewer
from benchmarks.gpu.arms import LABELS, build_plain
from benchmarks.gpu.cases import Case, Setting
from benchmarks.gpu.inputs import MIXES, Batch, Mix, describe_case, draw_batches
from benchmarks.gpu.sizes import Shape
from benchmarks.gpu.timing import interleave
from fewer.core.learning import TrainingBatch
from fewer.core.phase import Phase
from fewer.hf.attach import attachment, running

__all__ = ["cases"]

LEARNING_RATE = 1e-5


def cases(setting: Setting) -> list[Case]:
    """List the two shapes of BERT."""
    size, mix = setting.sizes.batches[0], MIXES["imdb"]
    return [
        Case(
            f"training/{name}/{mix.name}/{size}/bf16",
            1 if name == "bert-base" else 2,
            8.0,
            partial(measure, setting, setting.sizes.shape(name), mix, size),
        )
        for name in ("bert-base", "minilm")
    ]


def measure(setting: Setting, shape: Shape, mix: Mix, size: int) -> dict[str, Any]:
    """Time the steps of all systems in turn; each trains its own copy, with its own dropout."""
    device, sizes = setting.device, setting.sizes
    vocabulary = shape.config().vocab_size
    batches = draw_batches(mix, size, vocabulary, sizes, device)
    generator = torch.Generator().manual_seed(0)
    labels = [torch.randint(LABELS, (size,), generator=generator).to(device) for _ in batches]
    soft = next(phase for phase in fewer.LTP(target=0.5).phases() if phase.apply == "soften")
    arms = {
        "padded": make_step(build_plain(shape, device), None, batches, labels),
        "packed": make_step(fewer.attach(build_plain(shape, device)), None, batches, labels),
        "ltp-soft": make_step(
            fewer.attach(build_plain(shape, device), fewer.LTP(target=0.5)), soft, batches, labels
        ),
    }
    systems = interleave(arms, device, sizes, against=("padded", "packed"))
    tokens = sum(batch.tokens for batch in batches) / len(batches)
    for system in systems.values():
        if "wall_ms" in system:
            system["tokens_per_s"] = tokens / system["wall_ms"]["median"] * 1e3
    return {
        **describe_case(shape.name, mix, "bf16 autocast", batches),
        "systems": systems,
    }


def make_step(
    model: Any, phase: Phase | None, batches: Sequence[Batch], labels: Sequence[Tensor]
) -> Callable[[int], Tensor]:
    """Return a step on an input set, which gives its loss."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)

    def step(number: int) -> Tensor:
        optimizer.zero_grad()
        device = labels[number].device
        with torch.autocast(device.type, torch.bfloat16):
            loss = _loss(model, phase, batches[number].inputs, labels[number])
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _loss(model: Any, phase: Phase | None, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Return the task's loss, with that of the policy in a phase that regularises."""
    with fewer.record() as traces, contextlib.ExitStack() as stack:
        if phase is not None:
            stack.enter_context(running(model, phase))
        output = model(**inputs, labels=labels)
    loss: Tensor = output.loss
    if phase is None or not phase.regularise:
        return loss
    attached = attachment(model)
    batch = TrainingBatch(traces[0], phase, 0, output.logits, labels, attached.head.loss)
    return loss + attached.policy.loss(batch)
