"""A forward pass of whole models: padded, sorted, packed, with half of the FLOPs, with exits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.arms import (
    Models,
    build_models,
    calibrate_exits,
    calibrate_pruning,
    flash_reason,
    make_call,
    padded_ratio,
)
from benchmarks.gpu.cases import Case, Setting
from benchmarks.gpu.inputs import MIXES, Batch, Mix, describe_case, draw_batches
from benchmarks.gpu.sizes import Shape
from benchmarks.gpu.timing import interleave

__all__ = ["cases"]

DENSE = ("padded", "padded-flash", "sorted", "packed", "optimized")  # arms whose logits must agree
FIRST = {("imdb", 0), ("imdb", 1), ("imdb", 2), ("squad", 0), ("equal-128", 0)}


def cases(setting: Setting) -> list[Case]:
    """List every shape, mix and batch in bf16, and one case in fp16."""
    found = []
    for shape in setting.sizes.shapes:
        for mix in (MIXES[name] for name in setting.sizes.mixes):
            for place, size in enumerate(setting.sizes.batches):
                rank = 1 if (mix.name, place) in FIRST and shape.name != "minilm" else 2
                found.append(_case(setting, shape, mix, size, "bf16", rank))
    half, mix = setting.sizes.shape("bert-base"), MIXES["imdb"]
    found.append(_case(setting, half, mix, setting.sizes.batches[0], "fp16", 2))
    return found


def _case(setting: Setting, shape: Shape, mix: Mix, size: int, precision: str, rank: int) -> Case:
    return Case(
        f"encoder/{shape.name}/{mix.name}/{size}/{precision}",
        rank,
        8.0 if size == setting.sizes.batches[1] else 4.0,
        partial(measure, setting, shape, mix, size, precision),
    )


def measure(setting: Setting, shape: Shape, mix: Mix, size: int, precision: str) -> dict[str, Any]:
    """Time all arms in turn, and compare the logits of the dense ones."""
    device, sizes = setting.device, setting.sizes
    models = build_models(shape, precision, device)
    batches = draw_batches(mix, size, models.vocabulary, sizes, device)
    calibrated = {
        "half": calibrate_pruning(models, batches),
        "exits": calibrate_exits(models, batches),
    }
    calls, skipped = arm_calls(models, batches, sizes.part, device)
    systems = interleave(calls, device, sizes, against=("padded", "packed"))
    ratios = _flops_ratios(models, batches, sizes.part)
    tokens = sum(batch.tokens for batch in batches) / len(batches)
    for name, system in systems.items():
        system |= calibrated.get(name, {"flops_ratio": ratios.get(name, 1.0)})
        if "wall_ms" in system:
            seconds = system["wall_ms"]["median"] / 1e3
            system |= {"texts_per_s": size / seconds, "tokens_per_s": tokens / seconds}
    compare_logits(models, batches, calls, systems)
    return {
        **describe_case(shape.name, mix, precision, batches),
        "systems": systems,
        "skipped": skipped,
    }


def arm_calls(
    models: Models, batches: Sequence[Batch], part: int, device: torch.device
) -> tuple[dict[str, Callable[[int], Tensor]], dict[str, str]]:
    """Return the call of each arm, and why others are left out."""
    calls, skipped = {"padded": make_call(models.padded, batches)}, {}
    if models.flash is None:
        skipped["padded-flash"] = flash_reason(device) or ""
    else:
        calls["padded-flash"] = make_call(models.flash, batches)
    if len(batches[0].lengths) > 1:
        calls["sorted"] = _sorted_call(models.padded, batches, part)
    else:
        skipped["sorted"] = "a batch of one text"
    calls["packed"] = make_call(models.packed, batches)
    calls["optimized"] = make_call(models.optimized, batches)
    calls["half"] = make_call(models.half, batches)
    calls["exits"] = make_call(models.exits, batches)
    return calls, skipped


def compare_logits(
    models: Models,
    batches: Sequence[Batch],
    calls: dict[str, Callable[[int], Tensor]],
    systems: dict[str, dict[str, Any]],
) -> None:
    """Add the largest difference of logits from padded in the same dtype, and from fp32."""
    padded, exact = (
        model_call(0).float()
        for model_call in (calls["padded"], make_call(models.reference, batches))
    )
    for name in DENSE:
        if name not in calls or "error" in systems[name]:
            continue
        logits = calls[name](0).float()
        systems[name] |= {
            "logit_difference": float((logits - padded).abs().max()),
            "difference_to_fp32": float((logits - exact).abs().max()),
            "logit_spread": float(exact.max() - exact.min()),
        }


def _sorted_call(model: Any, batches: Sequence[Batch], part: int) -> Callable[[int], Tensor]:
    """Run sub-batches of texts of similar length; sorting and padding them is not timed."""
    size = len(batches[0].lengths)
    parts = [batch.parts(min(part, -(-size // 4))) for batch in batches]
    orders = [
        torch.tensor(sorted(range(size), key=lambda text: batch.lengths[text])).argsort()
        for batch in batches
    ]
    orders = [order.to(batches[0].texts[0].device) for order in orders]

    def call(number: int) -> Tensor:
        with torch.inference_mode():
            logits = [model(**inputs).logits for inputs in parts[number]]
            return torch.cat(logits)[orders[number]]

    return call


def _flops_ratios(models: Models, batches: Sequence[Batch], part: int) -> dict[str, float]:
    """Return the FLOPs of padded batches over those of their texts."""
    lengths = [length for batch in batches for length in batch.lengths]
    size = len(batches[0].lengths)
    whole = [[batch.inputs["input_ids"]] for batch in batches]
    parts = [
        [inputs["input_ids"] for inputs in batch.parts(min(part, -(-size // 4)))]
        for batch in batches
    ]
    padded = padded_ratio(models.spec, whole, lengths)
    return {
        "padded": padded,
        "padded-flash": padded,
        "sorted": padded_ratio(models.spec, parts, lengths),
    }
