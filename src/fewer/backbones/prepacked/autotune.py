"""Choose on this very machine: which kernels give the right answer, and which the fastest."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fewer.backbones.base import BackboneLayer
from fewer.backbones.prepacked.engine import prepack
from fewer.kernels.cpu.library import Isa, best

__all__ = ["Choice", "choose"]

ROWS = 128
RUNS = 7
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # of the largest number of the answer
WORTH = 1.2  # a less exact or less even way must be faster by this much


@dataclass(frozen=True)
class Choice:
    """What was chosen (`None`: plain torch), and why."""

    isa: Isa | None
    reason: str


def choose(precision: str, layer: BackboneLayer, width: int, dtype: torch.dtype) -> Choice:
    """Run the feed-forward block of a layer by every candidate, next to plain torch.

    Raises `ValueError` where `precision` is bf16 and the processor does not multiply it, and
    `NotPrepackable` where the layer cannot be packed.
    """
    wanted = {"fp32": [torch.float32], "bf16": [torch.bfloat16]}.get(
        precision, [torch.float32, torch.bfloat16]
    )
    isas = [isa for isa in map(best, wanted) if isa is not None]
    if not isas:
        raise ValueError(
            "precision='bf16', but this processor has no instructions that multiply bf16 (AMX or "
            "AVX512_BF16); use precision='fp32' or 'auto'"
        )
    x = torch.randn(ROWS, width, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        truth = layer.ffn(x.to(dtype)).float()
        taken: dict[Isa | None, float] = {None: _seconds(lambda: layer.ffn(x.to(dtype)))}
        for isa in isas:
            packed = prepack(layer, isa)
            if _right(
                packed.ffn(x), truth, isa.dtype if dtype is torch.float32 else torch.bfloat16
            ):
                taken[isa] = _seconds(partial(packed.ffn, x))
    return _chosen(taken, isas)


def _chosen(taken: dict[Isa | None, float], isas: list[Isa]) -> Choice:
    broken = [isa.name for isa in isas if isa not in taken]
    note = f"; {', '.join(broken)} gave wrong answers here" if broken else ""
    found: Isa | None = None
    for isa in isas:  # the first is what was asked for, or fp32, which is exact
        if isa in taken and taken[isa] < taken[found] * (WORTH if isa is isas[0] else 1 / WORTH):
            found = isa
    if found is None:
        return Choice(None, f"plain torch is faster than the compiled kernels here{note}")
    # no ratio: it varies from call to call, and the same choice would be logged again and again
    return Choice(found, f"{found.name}, faster than plain torch on a feed-forward block{note}")


def _right(answer: Tensor, truth: Tensor, coarser: torch.dtype) -> bool:
    """Compare; the truth of a model in half precision is itself rounded."""
    away = (answer - truth).abs().max() / truth.abs().max()
    return bool(away < TOLERANCE[coarser])  # not so for NaN


def _seconds(run: Callable[[], object]) -> float:
    run()
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)
