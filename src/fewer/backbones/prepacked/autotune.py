"""Choose the kernels on this machine: test that they are right, and time them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fewer.backbones.base import BackboneLayer
from fewer.backbones.prepacked.engine import prepack
from fewer.kernels.cpu.library import Isa, best_isa

__all__ = ["Choice", "choose"]

ROWS = 128
RUNS = 7
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.int8: 1e-1}  # of the largest output
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}
INSTRUCTIONS = {"bf16": "AMX or AVX512_BF16", "int8": "AMX, AVX512_VNNI or AVX2"}
MIN_SPEEDUP = 1.2  # speedup that a less exact or less deterministic choice must have


@dataclass(frozen=True)
class Choice:
    """The chosen instruction set (`None`: plain torch), and the reason."""

    isa: Isa | None
    reason: str


def choose(precision: str, layer: BackboneLayer, width: int, dtype: torch.dtype) -> Choice:
    """Time the feed-forward block of a layer on every candidate and on plain torch.

    Raises `ValueError` where the processor does not multiply `precision`, and `NotPrepackable`
    where the layer cannot be packed. `auto` never chooses int8, which changes answers.
    """
    dtypes = [DTYPES[precision]] if precision in DTYPES else [torch.float32, torch.bfloat16]
    isas = [isa for isa in map(best_isa, dtypes) if isa is not None]
    if not isas:
        raise ValueError(
            f"precision={precision!r}, but this processor has no instructions that multiply "
            f"{precision} ({INSTRUCTIONS[precision]}); use precision='fp32' or 'auto'"
        )
    x = torch.randn(ROWS, width, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = layer.ffn(x.to(dtype)).float()
        seconds: dict[Isa | None, float] = {None: _seconds(lambda: layer.ffn(x.to(dtype)))}
        for isa in isas:
            packed = prepack(layer, isa)
            tolerance = TOLERANCE[isa.dtype]
            if dtype is not torch.float32:  # the expected output is itself rounded
                tolerance = max(tolerance, TOLERANCE[torch.bfloat16])
            if _is_close(packed.ffn(x), expected, tolerance):
                seconds[isa] = _seconds(partial(packed.ffn, x))
    return _pick(seconds, isas)


def _pick(seconds: dict[Isa | None, float], isas: list[Isa]) -> Choice:
    broken = [isa.name for isa in isas if isa not in seconds]
    note = f"; {', '.join(broken)} gave wrong answers here" if broken else ""
    fastest: Isa | None = None
    for isa in isas:  # the first is the requested one, or fp32, which is exact
        factor = MIN_SPEEDUP if isa is isas[0] else 1 / MIN_SPEEDUP
        if isa in seconds and seconds[isa] < seconds[fastest] * factor:
            fastest = isa
    if fastest is None:
        return Choice(None, f"plain torch is faster than the compiled kernels here{note}")
    # without a ratio, which varies per call, so that equal choices are logged once
    return Choice(fastest, f"{fastest.name}, faster than plain torch on a feed-forward block{note}")


def _is_close(output: Tensor, expected: Tensor, tolerance: float) -> bool:
    error = (output - expected).abs().max() / expected.abs().max()
    return bool(error < tolerance)  # False for NaN


def _seconds(run: Callable[[], object]) -> float:
    run()
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)
