"""Attention alone: every kernel of `fewer.kernels.KERNELS`, plain and with the score."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.cases import Case, Setting
from benchmarks.gpu.inputs import MIXES, Batch, Mix, describe_case, draw_batches
from benchmarks.gpu.sizes import DTYPES, Shape
from benchmarks.gpu.timing import interleave
from fewer.kernels import KERNELS, AttentionCall, AttentionOutput, kernel
from fewer.kernels.sdpa import attend as attend_sdpa

__all__ = ["cases"]

Attend = Callable[..., AttentionOutput]
LEFT_OUT = {"reference": "slow by design; the others are compared with it"}
GPU_ONLY = ("gpu",)  # of `KERNELS`
TRITON = "fewer.kernels.triton.attention"  # a part of the kernel "gpu"
RECEIVED = "fewer.kernels.triton.received"
CONFIG = "fewer.kernels.triton.config"
UNSUPPORTED = "does not compute this call itself"


def cases(setting: Setting) -> list[Case]:
    """List each shape and mix at the larger batches, and two cases of all block sizes."""
    found = []
    large, precision = setting.sizes.kernel_batches[-1], setting.sizes.kernel_precision
    for shape in setting.sizes.shapes:
        for mix in (MIXES[name] for name in setting.sizes.kernel_mixes):
            for size in setting.sizes.kernel_batches:
                is_first = shape.name == "bert-base" and mix.name in ("imdb", "equal-512")
                name = f"kernels/{shape.name}/{mix.name}/{size}/{precision}"
                function = partial(measure, setting, shape, mix, size, precision)
                found.append(Case(name, 1 if is_first else 3, 5.0, function))
    for name, rank in (("bert-base", 2), ("minilm", 3)):
        shape, mix = setting.sizes.shape(name), MIXES["imdb"]
        function = partial(measure_configs, setting, shape, mix, large, precision)
        found.append(Case(f"kernels/configs/{name}/imdb/{large}/{precision}", rank, 40.0, function))
    return found


def measure(setting: Setting, shape: Shape, mix: Mix, size: int, precision: str) -> dict[str, Any]:
    """Time all kernels in turn, and compare each with the reference on a small batch."""
    inputs = draw_inputs(setting, shape, mix, size, precision)
    attends, skipped = find_kernels(setting.device)
    arms: dict[str, Callable[[int], Any]] = {"sdpa-padded": _padded_call(inputs)}
    for name, attend in attends.items():
        for form, calls in _forms(inputs.calls, shape.window).items():
            if is_supported(attend, calls[0]):
                arms[name + form] = _run(attend, calls)
            else:
                skipped[name + form] = UNSUPPORTED
    received, reason = find_received()
    if received is None or not is_supported(received, inputs.calls[0]):
        skipped["triton.received"] = reason or UNSUPPORTED
    else:
        arms["triton.received"] = _run_received(received, inputs.calls)
    return _row(setting, shape, inputs, arms, skipped, attends)


def measure_configs(
    setting: Setting, shape: Shape, mix: Mix, size: int, precision: str
) -> dict[str, Any]:
    """Time the kernels that take block sizes with each of those to be tried."""
    inputs = draw_inputs(setting, shape, mix, size, precision)
    scored = [replace(call, needs_received=True) for call in inputs.calls]
    configs = build_configs(setting.sizes.configs)
    found, skipped = find_kernels(setting.device)
    received, reason = find_received()
    if received is None:
        skipped["triton.received"] = reason
    attends: dict[str, Attend] = {}
    arms: dict[str, Callable[[int], Any]] = {"sdpa-padded": _padded_call(inputs)}
    for label, config in {"": None, **configs}.items():
        for name, attend in found.items():
            if not takes_config(attend) or not is_supported(attend, scored[0]):
                skipped[name] = "takes no block sizes here"
                continue
            chosen = partial(attend, config=config)
            attends[name + label] = chosen
            arms[name + label] = _run(chosen, inputs.calls)
            arms[f"{name} + received{label}"] = _run(chosen, scored)
        if received is not None and takes_config(received) and is_supported(received, scored[0]):
            arms[f"triton.received{label}"] = _run_received(
                partial(received, config=config), inputs.calls
            )
    return _row(setting, shape, inputs, arms, skipped, attends)


@dataclass(frozen=True)
class Inputs:
    """The input sets of a case as padded batches and as calls of a kernel."""

    mix: Mix
    precision: str
    batches: list[Batch]
    calls: list[AttentionCall]


def draw_inputs(setting: Setting, shape: Shape, mix: Mix, size: int, precision: str) -> Inputs:
    """Draw the input sets of a case."""
    device, dtype = setting.device, DTYPES[precision]
    batches = draw_batches(mix, size, 1000, setting.sizes, device)
    calls = [
        draw_call(batch.lengths, shape, dtype, device, seed) for seed, batch in enumerate(batches)
    ]
    return Inputs(mix, precision, batches, calls)


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
        is_consecutive=True,
        max_length=max(lengths),
    )


def find_kernels(device: torch.device) -> tuple[dict[str, Attend], dict[str, str]]:
    """Return the kernels that run here, and why others do not."""
    attends: dict[str, Attend] = {}
    skipped = dict(LEFT_OUT)
    for name in KERNELS:
        if name in LEFT_OUT:
            continue
        if name in GPU_ONLY and device.type == "cpu":
            skipped[name] = "needs a GPU"
            continue
        try:
            attends[name] = kernel(name)
        except ValueError as error:
            skipped[name] = str(error)
    try:
        attends["triton"] = importlib.import_module(TRITON).attend
    except ImportError as error:
        skipped["triton"] = f"{type(error).__name__}: {error}"
    return attends, skipped


def is_supported(function: Callable[..., Any], call: AttentionCall) -> bool:
    """Return whether a kernel computes a call itself, by `supports` of its module.

    Others hand it to another kernel, whose time is not theirs.
    """
    module = sys.modules.get(function.__module__)
    with torch.inference_mode():
        if supports := getattr(module, "supports", None):
            return bool(supports(call))
        reason = getattr(module, "unsupported_reason", None)
        return reason is None or reason(call) is None


def takes_config(function: Callable[..., Any]) -> bool:
    """Return whether a kernel takes block sizes."""
    return "config" in inspect.signature(function).parameters


def build_configs(blocks: Sequence[tuple[int, int, int, int]]) -> dict[str, Any]:
    """Build the block sizes of the Triton kernels, by a label; none where there is no Triton."""
    try:
        config: Any = importlib.import_module(CONFIG).Config
    except (ImportError, AttributeError):
        return {}
    return {f" {'x'.join(map(str, numbers))}": config(*numbers) for numbers in blocks}


def find_received() -> tuple[Callable[..., Any] | None, str]:
    """Return the function of the attention received alone, or why there is none."""
    try:
        received: Any = importlib.import_module(RECEIVED).received
    except (ImportError, AttributeError) as error:
        return None, f"{type(error).__name__}: {error}"
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


def _row(
    setting: Setting,
    shape: Shape,
    inputs: Inputs,
    arms: Mapping[str, Callable[[int], Any]],
    skipped: dict[str, str],
    attends: Mapping[str, Attend],
) -> dict[str, Any]:
    systems = interleave(arms, setting.device, setting.sizes, against=("sdpa", "sdpa-padded"))
    flops = _flops(inputs.batches, shape)
    for system in systems.values():
        if "wall_ms" in system:
            ms = (system["gpu_ms"] or system["wall_ms"])["median"]
            system["tflops_per_s"] = flops / ms / 1e9
    small = draw_call(setting.sizes.small, shape, DTYPES[inputs.precision], setting.device, 0)
    for name, attend in attends.items():
        if "wall_ms" in systems.get(name, {}):
            systems[name] |= compare(attend, small)
    return {
        **describe_case(shape.name, inputs.mix, inputs.precision, inputs.batches),
        "flops": flops,
        "systems": systems,
        "skipped": skipped,
    }


def _forms(calls: Sequence[AttentionCall], window: int | None) -> dict[str, list[AttentionCall]]:
    """Return the calls plain, with the score, and with the window of the shape."""
    forms = {
        "": list(calls),
        " + received": [replace(call, needs_received=True) for call in calls],
    }
    if window is not None:
        forms[" + window"] = [replace(call, window=window) for call in calls]
    return forms


def _run(function: Callable[..., Any], calls: Sequence[AttentionCall]) -> Callable[[int], Any]:
    def call(number: int) -> Any:
        with torch.inference_mode():
            return function(calls[number])

    return call


def _run_received(
    function: Callable[..., Any], calls: Sequence[AttentionCall]
) -> Callable[[int], Any]:
    """Return the call of the attention received alone, from a logsumexp computed before."""
    with torch.inference_mode():
        logsumexps = [attend_sdpa(replace(call, needs_logsumexp=True)).logsumexp for call in calls]

    def call(number: int) -> Any:
        with torch.inference_mode():
            return function(calls[number], logsumexps[number])

    return call


def _padded_call(inputs: Inputs) -> Callable[[int], Tensor]:
    """Run PyTorch's attention on padded grids with a mask, as transformers does."""
    grids = []
    for call, batch in zip(inputs.calls, inputs.batches, strict=True):
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
