"""Attention alone: every kernel of `fewer.kernels.KERNELS`, plain and with the score."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.cases import Case, Setting
from benchmarks.gpu.inputs import MIXES, Batch, Mix, describe_data, draw_batches
from benchmarks.gpu.sizes import DTYPES, Shape
from benchmarks.gpu.timing import interleave
from fewer.kernels import KERNELS, AttentionCall, AttentionOutput, kernel

__all__ = ["cases"]

Attend = Callable[[AttentionCall], AttentionOutput]
SMALL = (1, 2, 40, 7, 65)  # lengths of the texts that are compared with the reference
LEFT_OUT = {"reference": "slow by design; the others are compared with it"}
ON_CPU = {"native": "runs on a CPU"}


def cases(setting: Setting) -> list[Case]:
    """List each shape and mix, at the larger batches."""
    found = []
    for shape in setting.sizes.shapes:
        for mix in (MIXES[name] for name in setting.sizes.mixes):
            for size in setting.sizes.batches[:2]:
                is_first = shape.name == "bert-base" and mix.name in ("imdb", "equal-512")
                found.append(
                    Case(
                        f"kernels/{shape.name}/{mix.name}/{size}/bf16",
                        1 if is_first else 3,
                        4.0,
                        partial(measure, setting, shape, mix, size, "bf16"),
                    )
                )
    return found


def measure(setting: Setting, shape: Shape, mix: Mix, size: int, precision: str) -> dict[str, Any]:
    """Time all kernels in turn, and compare each with the reference on a small batch."""
    device, sizes, dtype = setting.device, setting.sizes, DTYPES[precision]
    batches = draw_batches(mix, size, 1000, sizes, device)
    calls = [
        draw_call(batch.lengths, shape, dtype, device, seed) for seed, batch in enumerate(batches)
    ]
    attends, skipped = find_kernels(device)
    arms = {"sdpa-padded": _padded_call(calls, batches)}
    for name, attend in attends.items():
        arms |= _forms(name, attend, calls, shape.window)
    received, reason = find_received()
    if received is None:
        skipped["triton.received"] = reason
    else:
        arms["triton.received"] = _run(received, calls)
    systems = interleave(arms, device, sizes, against=("sdpa", "sdpa-padded"))
    flops = _flops(batches, shape)
    for system in systems.values():
        if "wall_ms" in system:
            ms = (system["gpu_ms"] or system["wall_ms"])["median"]
            system["tflops_per_s"] = flops / ms / 1e9
    small = draw_call(SMALL, shape, dtype, device, 0)
    for name, attend in attends.items():
        systems[name] |= compare(attend, small)
    return {
        "model": shape.name,
        "lengths": mix.name,
        "batch": size,
        "precision": precision,
        **describe_data(mix, batches),
        "flops": flops,
        "systems": systems,
        "skipped": skipped,
    }


def draw_call(
    lengths: Sequence[int], shape: Shape, dtype: torch.dtype, device: torch.device, seed: int
) -> AttentionCall:
    """Draw queries, keys and values, slices of a fused projection as in a model."""
    generator = torch.Generator(device).manual_seed(seed)
    rows = (sum(lengths), 3, shape.heads, shape.width)
    q, k, v = torch.randn(rows, generator=generator, device=device, dtype=dtype).unbind(1)
    cu = torch.tensor([0, *lengths], device=device).cumsum(0)
    position = torch.cat([torch.arange(length) for length in lengths]).to(device)
    return AttentionCall(
        q=q,
        k=k,
        v=v,
        cu_q=cu,
        cu_k=cu,
        position_q=position,
        position_k=position,
        max_length=max(lengths),
    )


def find_kernels(device: torch.device) -> tuple[dict[str, Attend], dict[str, str]]:
    """Return the kernels that run here, in each of their configurations, and why others do not.

    A kernel that takes `config=` is measured with each entry of `CONFIGS` of its module too.
    """
    attends: dict[str, Attend] = {}
    skipped = dict(LEFT_OUT)
    for name in KERNELS:
        if name in LEFT_OUT:
            continue
        if device.type != "cpu" and name in ON_CPU:
            skipped[name] = ON_CPU[name]
            continue
        try:
            attend = kernel(name)
        except ValueError as error:
            skipped[name] = str(error)
            continue
        attends[name] = attend
        for config in find_configs(attend):
            attends[f"{name} {config}"] = partial(attend, config=config)
    return attends, skipped


def find_configs(attend: Attend) -> tuple[Any, ...]:
    """Return the block configurations that a kernel offers beside its own choice."""
    if "config" not in inspect.signature(attend).parameters:
        return ()
    module: ModuleType | None = sys.modules.get(getattr(attend, "__module__", ""))
    return tuple(getattr(module, "CONFIGS", ()))


def find_received() -> tuple[Callable[[AttentionCall], Any] | None, str]:
    """Return the function of the attention received alone, or why there is none."""
    try:
        module = importlib.import_module("fewer.kernels.triton")
        received: Any = module.received
    except (ImportError, AttributeError) as error:
        return None, f"{type(error).__name__}: {error}"
    required = [
        parameter
        for parameter in inspect.signature(received).parameters.values()
        if parameter.default is parameter.empty
    ]
    if len(required) != 1:
        return None, "takes more than a call"
    return received, ""


def compare(attend: Attend, call: AttentionCall) -> dict[str, float]:
    """Return the largest differences from the reference in fp32 on the CPU."""
    call = replace(call, needs_received=True)
    exact = KERNELS["reference"](_to_cpu(call))
    with torch.inference_mode():
        output = attend(call)
        plain = attend(replace(call, needs_received=False))
    assert exact.received is not None
    assert output.received is not None
    context = max(
        float((attended.context.cpu().float() - exact.context).abs().max())
        for attended in (output, plain)
    )
    received = float((output.received.cpu().float() - exact.received).abs().max())
    return {"context_difference": context, "received_difference": received}


def _forms(
    name: str, attend: Attend, calls: Sequence[AttentionCall], window: int | None
) -> dict[str, Callable[[int], Any]]:
    """Return a kernel's calls: plain, with the score, and with the window of the shape."""
    scored = [replace(call, needs_received=True) for call in calls]
    forms = {name: _run(attend, calls), f"{name} + received": _run(attend, scored)}
    if window is not None:
        local = [replace(call, window=window) for call in calls]
        forms[f"{name} + window"] = _run(attend, local)
    return forms


def _run(function: Callable[[AttentionCall], Any], calls: Sequence[AttentionCall]) -> Any:
    def call(number: int) -> Any:
        with torch.inference_mode():
            return function(calls[number])

    return call


def _padded_call(
    calls: Sequence[AttentionCall], batches: Sequence[Batch]
) -> Callable[[int], Tensor]:
    """Run PyTorch's attention on padded grids with a mask, as transformers does."""
    grids = []
    for call, batch in zip(calls, batches, strict=True):
        lengths = list(batch.lengths)
        padded = [
            torch.nn.utils.rnn.pad_sequence(states.split(lengths), batch_first=True)
            .transpose(1, 2)
            .contiguous()
            for states in (call.q, call.k, call.v)
        ]
        mask = batch.inputs["attention_mask"].bool()[:, None, None]
        grids.append((padded, None if bool(mask.all()) else mask))

    def call_grid(number: int) -> Tensor:
        (q, k, v), mask = grids[number]
        with torch.inference_mode():
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    return call_grid


def _flops(batches: Sequence[Batch], shape: Shape) -> float:
    """FLOPs of both products over all pairs of a text, the mean of the input sets."""
    pairs = sum(length**2 for batch in batches for length in batch.lengths) / len(batches)
    return 4.0 * pairs * shape.heads * shape.width


def _to_cpu(call: AttentionCall) -> AttentionCall:
    floats = {name: getattr(call, name).cpu().float() for name in ("q", "k", "v")}
    whole = {
        name: getattr(call, name).cpu() for name in ("cu_q", "cu_k", "position_q", "position_k")
    }
    return replace(call, **floats, **whole)
